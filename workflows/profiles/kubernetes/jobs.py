"""Submit a Snakemake job to Kubernetes and say how it stands, through ``kubectl``.

All pods mount one volume at the same path as the machine that Snakemake runs on, so that the stage commands find the
directories that they go on with. (Snakemake's own Kubernetes executor moves each declared file through a store of
objects instead, which suits commands that write single files.)
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path


def manifest(script: Path, *, image: str, claim: str, mount: str, cpus: int, memory_mb: int, gpus: int) -> dict:
    """The Job that runs ``script`` once in a pod."""
    resources: dict[str, dict] = {"requests": {"cpu": str(cpus), "memory": f"{memory_mb}Mi"}}
    if gpus:
        resources["limits"] = {"nvidia.com/gpu": str(gpus)}
    container = {
        "name": "job",
        "image": image,
        "command": ["sh", str(script)],
        "workingDir": str(Path.cwd()),
        "resources": resources,
        "volumeMounts": [{"name": "data", "mountPath": mount}],
    }
    volumes = [{"name": "data", "persistentVolumeClaim": {"claimName": claim}}]
    pod = {"restartPolicy": "Never", "containers": [container], "volumes": volumes}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"generateName": "lorta-fold-", "labels": {"app": "lorta-fold"}},
        # Snakemake counts the retries (restart-times), so that it can say which job failed and how often.
        "spec": {"backoffLimit": 0, "template": {"spec": pod}},
    }


def state(job: dict) -> str:
    """``success``, ``failed`` or ``running``, the three words that Snakemake takes."""
    status = job.get("status", {})
    if status.get("succeeded"):
        return "success"
    return "failed" if status.get("failed") else "running"


def submit(arguments: argparse.Namespace) -> int:
    """Create the Job and print its name."""
    document = manifest(
        arguments.script.resolve(),
        image=arguments.image,
        claim=arguments.claim,
        mount=arguments.mount,
        cpus=arguments.cpus,
        memory_mb=arguments.memory_mb,
        gpus=arguments.gpus,
    )
    words = ["kubectl", "create", "-f", "-", "-o", "jsonpath={.metadata.name}"]
    return subprocess.run(words, input=json.dumps(document), text=True, check=False).returncode


def status(arguments: argparse.Namespace) -> int:
    """Print the state of a Job; one that is gone has failed."""
    found = subprocess.run(
        ["kubectl", "get", "job", arguments.name, "--ignore-not-found", "-o", "json"],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if found.returncode:
        return found.returncode
    print(state(json.loads(found.stdout)) if found.stdout.strip() else "failed")
    return 0


def main() -> int:
    """Run one of both."""
    p = argparse.ArgumentParser(description=__doc__)
    actions = p.add_subparsers(required=True)
    create = actions.add_parser("submit", help="submit a job script")
    create.add_argument("--image", required=True, help="container image with lorta-fold")
    create.add_argument("--claim", required=True, help="persistent volume claim (ReadWriteMany)")
    create.add_argument("--mount", required=True, help="where every pod mounts it")
    create.add_argument("--cpus", type=int, default=1)
    create.add_argument("--memory-mb", type=int, default=8000)
    create.add_argument("--gpus", type=int, default=0)
    create.add_argument("script", type=Path)
    create.set_defaults(action=submit)
    ask = actions.add_parser("status", help="state of a job")
    ask.add_argument("name")
    ask.set_defaults(action=status)
    arguments = p.parse_args()
    return arguments.action(arguments)


if __name__ == "__main__":
    sys.exit(main())
