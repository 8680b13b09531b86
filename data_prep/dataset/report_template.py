"""The page ``report.html``: HTML, style and the few lines of script that search the table, all in one file."""

TEMPLATE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Protein structure dataset</title>
<style>
:root { color-scheme: light dark; }
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 64rem; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; padding: .2rem .6rem .2rem 0; border-bottom: 1px solid #8884; vertical-align: top; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(18rem, 1fr)); gap: 1rem; }
figure { margin: 0; } figcaption, .note { color: #777; font-size: .85rem; }
svg { width: 100%; height: auto; } svg text { font-size: 11px; fill: currentColor; }
.share { width: 8rem; } .share div { background: #3b7dd8; height: .8rem; margin-top: .35rem; min-width: 2px; }
.bar { fill: #3b7dd8; } .axis { stroke: currentColor; }
input { font: inherit; width: 100%; padding: .35rem .5rem; margin: .5rem 0; box-sizing: border-box; }
</style>
</head>
<body>
<h1>Protein structure dataset</h1>
<p>{{ description.records }} chains, written by {{ description.tool }}, format version {{ description.format_version }}.
</p>
<table id="splits">
<tr><th>split</th><th class="n">chains</th><th class="n">clusters</th><th class="n">residues</th></tr>
{%- for row in splits %}
<tr><td>{{ row.name }}</td><td class="n">{{ row.chains }}</td><td class="n">{{ row.clusters }}</td>
<td class="n">{{ row.residues }}</td></tr>
{%- endfor %}
</table>

<h2>What is in it</h2>
<div class="charts">
{%- for chart in charts %}
<figure><strong>{{ chart.title }}</strong>{{ chart.svg | safe }}<figcaption>{{ chart.note }}</figcaption></figure>
{%- endfor %}
</div>

<h2>What was left out</h2>
{%- if reasons %}
<table id="reasons">
<tr><th>status</th><th>because</th><th class="n" colspan="2">how many</th><th>for example</th></tr>
{%- for status, reason, count, examples in reasons %}
<tr><td>{{ status }}</td><td>{{ reason }}</td>
<td class="share"><div style="width: {{ (100 * count / reasons[0][2]) | round(1) }}%"></div></td>
<td class="n">{{ count }}</td><td>{{ examples | join(", ") }}</td></tr>
{%- endfor %}
</table>
{%- else %}
<p>Nothing.</p>
{%- endif %}

<h2>Nearest training chain of each held-out chain</h2>
{%- if held_out %}
<p class="note">Identity is identical pairs of the best local alignment over the length of the shorter chain.
Clustering: {{ description.settings.clustering or "not stated" }}.</p>
<table id="nearest">
<tr><th>chain</th><th>split</th><th>nearest training chain</th><th class="n">identity</th></tr>
{%- for row in held_out %}
<tr><td>{{ row.id }}</td><td>{{ row.split }}</td><td>{{ row.nearest_train_id or "none" }}</td>
<td class="n">{{ "%.3f" | format(row.nearest_train_identity) if row.nearest_train_id else "" }}</td></tr>
{%- endfor %}
</table>
{%- else %}
<p>No chain is held out.</p>
{%- endif %}

<h2>Every file and chain</h2>
{%- if ledger | length > shown %}
<p class="note">The first {{ shown }} of {{ ledger | length }} rows; ledger.csv has all of them.</p>
{%- endif %}
<input id="search" type="search" placeholder="search file, chain, status, reason" aria-label="search">
<p class="note" id="found"></p>
<table id="ledger">
<thead><tr><th>file</th><th>chain</th><th>status</th><th>reason</th></tr></thead>
<tbody>
{%- for row in ledger[:shown] %}
<tr><td>{{ row.file }}</td><td>{{ row.chain }}</td><td>{{ row.status }}</td><td>{{ row.reason }}</td></tr>
{%- endfor %}
</tbody>
</table>

<h2>Settings</h2>
<p>Written by {{ description.tool }}.</p>
<pre>{{ settings }}</pre>
<script>
const rows = [...document.querySelectorAll("#ledger tbody tr")];
const texts = rows.map(row => row.textContent.toLowerCase());
const found = document.getElementById("found");
const search = document.getElementById("search");
function show() {
  const words = search.value.toLowerCase().split(/\\s+/).filter(Boolean);
  let count = 0;
  rows.forEach((row, i) => {
    const hit = words.every(word => texts[i].includes(word));
    row.hidden = !hit;
    count += hit;
  });
  found.textContent = count + " of " + rows.length + " rows";
}
search.addEventListener("input", show);
show();
</script>
</body>
</html>
"""
