"use strict";
// pLDDT colours are those of AlphaFold DB.
const colourOf = (plddt) => (plddt > 90 ? "#0053d6" : plddt > 70 ? "#65cbf3" : plddt > 50 ? "#ffdb13" : "#ff7d45");

const at = (id) => document.getElementById(id);
const structures = JSON.parse(at("data").textContent);
let viewer = null, chosen = null;

/** PDB text of the backbone, relaxed or the model's own; the viewer finds helices and strands in it by itself. */
function pdbText(structure) {
  const atoms = structure[at("version").value] ?? structure.atoms;
  const pad = (value, width) => String(value).padStart(width);
  return atoms.map(([residue, name, ...position], i) => {
    const [chain, number, type, plddt] = structure.residues[residue];
    const place = position.map((value) => pad((value / 100).toFixed(3), 8)).join("");
    return `ATOM  ${pad((i + 1) % 100000, 5)}  ${name.padEnd(3)} ${type} ${chain.slice(0, 1)}${pad(number % 10000, 4)}    ${place}  1.00${pad(plddt.toFixed(2), 6)}          ${pad(name[0], 2)}`;
  }).join("\n");
}

function drawStructure() {
  try {
    viewer ??= $3Dmol.createViewer(at("viewer"), { backgroundColor: "white" });
  } catch (error) {
    at("viewer").textContent = `The 3D view needs WebGL, which this browser does not offer (${error.message ?? error}).`;
    return;
  }
  viewer.removeAllModels();
  viewer.addModel(pdbText(chosen), "pdb");
  const colour = { colorfunc: (atom) => colourOf(atom.b) };
  viewer.setStyle({}, at("style").value === "cartoon" ? { cartoon: colour } : { stick: { radius: 0.25, ...colour } });
  viewer.zoomTo();
  viewer.render();
}

function drawCurve(canvas) {
  const pen = canvas.getContext("2d"), n = chosen.residues.length;
  const left = 30, top = 8, width = canvas.width - left - 8, height = canvas.height - top - 20;
  const x = (i) => left + (width * i) / n, y = (value) => top + height * (1 - value / 100);
  pen.clearRect(0, 0, canvas.width, canvas.height);
  pen.font = "11px system-ui, sans-serif";
  for (const value of [0, 50, 70, 90, 100]) {
    pen.fillStyle = "#e3e6ea";
    pen.fillRect(left, y(value), width, 1);
    pen.fillStyle = "#57606a";
    if (value !== 90) pen.fillText(value, 4, y(value) + 4);
  }
  chosen.residues.forEach(([chain, number, , plddt], i) => {
    pen.fillStyle = colourOf(plddt);
    pen.fillRect(x(i), y(plddt), Math.max(width / n - (n < 150), 1), y(0) - y(plddt));
    if (i > 0 && chosen.residues[i - 1][0] === chain) return;
    pen.fillStyle = "#57606a";
    pen.fillText(`${chain} ${number}`, x(i) + 2, canvas.height - 6);
  });
  return (pixel) => Math.min(n - 1, Math.max(0, Math.floor(((pixel - left) / width) * n)));
}

function drawMap(canvas) {
  const error = chosen.error;
  at("error").hidden = error === null;
  if (error === null) return;
  const bytes = Uint8Array.from(atob(error.pixels), (letter) => letter.charCodeAt(0));
  const pen = canvas.getContext("2d"), image = pen.createImageData(canvas.width, canvas.height);
  for (let row = 0; row < canvas.height; row++) {
    for (let column = 0; column < canvas.width; column++) {
      const [i, j] = [row, column].map((pixel) => Math.floor((pixel / canvas.width) * error.size));
      const value = bytes[i * error.size + j];
      image.data.set([value, 60 + value * 0.765, value, 255].map(Math.round), 4 * (row * canvas.width + column));
    }
  }
  pen.putImageData(image, 0, 0);
  at("error-max").textContent = error.max;
  chosen.errorAt = (column, row) => {
    const [i, j] = [row, column].map((pixel) => Math.min(error.size - 1, Math.floor((pixel / canvas.width) * error.size)));
    const residue = (k) => Math.floor((k * error.length) / error.size) + 1;
    return `${residue(i)} to ${residue(j)}: ${((bytes[i * error.size + j] / 255) * error.max).toFixed(1)} Å`;
  };
}

let curveAt = null;
function choose(row) {
  document.querySelector("tr.chosen")?.classList.remove("chosen");
  row.classList.add("chosen");
  chosen = structures[Number(row.dataset.place)];
  at("detail").hidden = false;
  at("hint").hidden = true;
  at("detail-name").textContent = `${chosen.name}, ${chosen.residues.length} residues.`;
  at("curve-at").textContent = at("map-at").textContent = "";
  curveAt = drawCurve(at("curve"));
  drawMap(at("map"));
  at("versions").hidden = chosen.relaxed === null;
  drawStructure();
  at("detail").scrollIntoView({ behavior: "smooth", block: "nearest" });
}

const pixel = (event) => {
  const scale = event.target.width / event.target.clientWidth;
  return [event.offsetX * scale, event.offsetY * scale];
};
at("curve").addEventListener("mousemove", (event) => {
  const [chain, number, type, plddt] = chosen.residues[curveAt(pixel(event)[0])];
  at("curve-at").textContent = `${chain} ${type} ${number}: ${plddt.toFixed(1)}`;
});
at("map").addEventListener("mousemove", (event) => { at("map-at").textContent = chosen.errorAt(...pixel(event)); });
for (const id of ["style", "version"]) at(id).addEventListener("change", drawStructure);

const body = at("rows").tBodies[0], rows = [...body.rows];
const texts = new Map(rows.map((row) => [row, [...row.cells].map((cell) => cell.textContent).join("\n").toLowerCase()]));
let limit = 500;  // rows that are drawn: thousands take seconds to lay out
function search() {
  const wanted = at("search").value.toLowerCase();
  let found = 0;
  for (const row of rows) row.hidden = !texts.get(row).includes(wanted) || ++found > limit;
  const part = found > limit ? `, the first ${limit} are shown` : "";
  at("shown").textContent = `${found} of ${rows.length} sequences${part}.`;
  at("more").hidden = found <= limit;
}
at("more").addEventListener("click", () => { limit = Infinity; search(); });
at("search").addEventListener("input", search);
search();
body.addEventListener("click", (event) => {
  const row = event.target.closest("tr[data-place]");
  if (row) choose(row);
});
const order = new Intl.Collator(undefined, { numeric: true });
at("rows").tHead.addEventListener("click", (event) => {
  const column = event.target.cellIndex, text = (row) => row.cells[column].textContent;
  if (column === undefined) return;
  const direction = (event.target.dataset.direction = event.target.dataset.direction === "1" ? -1 : 1);
  const blank = (row) => text(row) === "";  // last in both directions
  body.append(...rows.sort((a, b) => blank(a) - blank(b) || direction * order.compare(text(a), text(b))));
  search();
});
