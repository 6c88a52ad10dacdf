"""A benchmark's job in a process of its own, without MPI.

python -m realm_ds.bench.alone FOLDER      (processes.py starts it)
"""

import sys
from pathlib import Path

from realm_ds.bench.processes import read_work, write_result


def main() -> None:
    from realm_ds.bench import data_jobs, memory_jobs, plan_jobs, qa_jobs, refresh_jobs

    folder = Path(sys.argv[1])
    work = read_work(folder)
    jobs = {
        "encode": refresh_jobs.encode, "snapshot": refresh_jobs.snapshot, "memory": refresh_jobs.memory,
        "data_pack": data_jobs.pack, "data_prepare": data_jobs.prepare, "data_read": data_jobs.read,
        "export": memory_jobs.export, "export_answering": memory_jobs.answering,
        "plan_embedded": plan_jobs.embedded, "qa_answer": qa_jobs.answer,
    }  # fmt: skip
    write_result(folder, 0, jobs[work["job"]](work["options"], folder=folder))


if __name__ == "__main__":
    main()
