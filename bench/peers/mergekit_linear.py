"""mergekit's linear merge in process, to disk. Runs in the peers' environment.

    PEERS/bin/python bench/peers/mergekit_linear.py CONFIG.yaml OUT [--repeat N] [--threads T]

Prints one JSON object: wall and CPU seconds of each merge, without the imports.
"""

import argparse
import json
import os
import resource
import shutil
import time

os.environ["HF_HUB_OFFLINE"] = "1"


def main() -> None:
    """Merge as often as asked and print how long each took."""
    parser = argparse.ArgumentParser()
    parser.add_argument("config")
    parser.add_argument("out")
    parser.add_argument("--repeat", type=int, default=4)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    started = time.perf_counter()
    import torch
    import yaml
    from mergekit.config import MergeConfiguration
    from mergekit.merge import MergeOptions, run_merge

    torch.set_num_threads(options.threads)
    imported = time.perf_counter()
    with open(options.config, encoding="utf-8") as file:
        config = MergeConfiguration.model_validate(yaml.safe_load(file))
    seconds, cpu_seconds = [], []
    for _ in range(options.repeat):
        shutil.rmtree(options.out, ignore_errors=True)
        begun, busy = time.perf_counter(), time.process_time()
        run_merge(config, options.out, MergeOptions(copy_tokenizer=True, quiet=True))
        seconds.append(time.perf_counter() - begun)
        cpu_seconds.append(time.process_time() - busy)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    times = {"seconds": seconds, "cpu_seconds": cpu_seconds, "import_seconds": imported - started}
    print(json.dumps(times | {"peak": peak}))


if __name__ == "__main__":
    main()
