"""One of several engines of a run, as a process of its own: it is told what to do, and answers with reports."""

from rollout.engine.cache import release
from rollout.replicas.dispatcher import Task
from rollout.replicas.job_thread import JobThread
from rollout.replicas.messages import Job, Report


class Replica:
    """An engine that lives through the jobs of a sweep, and the one job it works on."""

    def __init__(self) -> None:
        self._job: JobThread | None = None
        """The newest job, which may have ended."""

    def start(self, job: Job) -> None:
        """Begin a job, in a thread; `exchange` reports how it goes."""
        if self._job is not None:
            self._job.end()
        self._job = JobThread(job, after=self._job)
        self._job.thread.start()

    def exchange(self, tasks: list[Task], flush: bool, seconds: float) -> Report:
        """Take more tasks, wait at most `seconds` for news, and report it. `flush`: make everything durable soon."""
        assert self._job is not None
        self._job.give(tasks, flush)
        return self._job.report(seconds)

    def stop(self) -> list[Exception]:
        """End the job: what has finished is made durable, what has not is dropped. The engine stays.

        Returns errors that no report has told, also those of an earlier job.
        """
        if self._job is None:
            return []
        self._job.end()
        return self._job.untold()

    def shutdown(self) -> list[Exception]:
        """As `stop`, and end the engine."""
        untold = self.stop()
        release()
        return untold
