"""Runs command lines in forks of a process that has imported what they need.

Half of what a short command takes is the import of torch and OpenMMLab; a fork has them already and
is otherwise a process of its own. One JSON line per command comes in, its exit status goes out.
"""

import gc
import json
import os
import runpy
import sys
import traceback


def serve() -> None:
    import mmdet_seg.engine.evaluation
    import mmdet_seg.engine.inference
    import mmdet_seg.engine.plan_report
    import mmdet_seg.engine.training  # noqa: F401

    gc.collect()
    gc.freeze()  # a million objects of the libraries, which no collection has to look at again
    for line in sys.stdin:
        job = json.loads(line)
        pid = os.fork()
        if not pid:
            _become(job)
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _become(job: dict) -> None:
    """Run the command in this process, which ends with it."""
    status = 1
    try:
        for stream, path in ((0, os.devnull), (1, job['stdout']), (2, job['stderr'])):
            mode = os.O_RDONLY if stream == 0 else os.O_WRONLY | os.O_CREAT
            os.dup2(os.open(path, mode), stream)
        os.chdir(job['cwd'])
        sys.argv = job['argv']
        sys.path[0] = os.path.dirname(job['argv'][0])
        runpy.run_path(job['argv'][0], run_name='__main__')
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == '__main__':
    serve()
