"""Ray on this machine alone: run as a script below a keeper (trial/process_tree.py), which ends all of it.

Ray's own processes outlive a launch that is killed, some of them by minutes; below a keeper they do not. Says where it
is in one line of JSON, and stays until its standard input closes.
"""

import json
import os
import sys

OBJECT_STORE_BYTES = 512 * 2**20
"""A trial's pictures are some tens of MB; what does not fit goes to the disk."""


def main(cpus: int, folder: str) -> None:
    """Serve until standard input closes. cpus: what Ray may count on; folder: where it keeps its logs and sockets."""
    # Its memory monitor would kill a place for what its trial uses; the executor ends the trial instead.
    os.environ.update({"RAY_USAGE_STATS_ENABLED": "0", "RAY_memory_monitor_refresh_ms": "0"})
    import ray

    context = ray.init(
        address="local",
        num_cpus=cpus,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=OBJECT_STORE_BYTES,
        _temp_dir=folder,
    )
    print(json.dumps({"address": context.address_info["gcs_address"]}), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
