import json


def write(r, out):
    out.mkdir(parents=True, exist_ok=True)
    (out / "bench.json").write_text(json.dumps(r, indent=1))
    (out / "bench.md").write_text(json.dumps(r["rounds"], indent=1))
