"""One row per response: `row_id`, `sample_idx`, every input column, every field of the response."""

from pathlib import Path

from rollout.data.parquet_output import write_parquet
from rollout.postprocess.source import Source
from rollout.postprocess.step import Step, Work
from rollout.store.layout import FLAT


def flatten(source: Source, output_dir: Path) -> Path:
    """Write `flat.parquet`."""
    output = output_dir / FLAT
    write_parquet(output, source.file_schema, source.batches())
    return output


def _run(work: Work) -> Work:
    flatten(work.source, work.output_dir)
    return work


FLATTEN = Step("flatten", _run, outputs=lambda _: [FLAT])
