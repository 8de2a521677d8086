import shutil
from pathlib import Path

import dagster as dg
import polars as pl
from polars.testing import assert_frame_equal

from rs_pipelines.analysis.data_directory import open_data
from rs_pipelines.analysis.traffic import daily_figures as figures_of_every_day
from rs_pipelines.analysis.traffic import daily_schema
from rs_pipelines.defs.analysis import daily_figures
from rs_pipelines.defs.resources import Stores
from rs_pipelines.workbench import Workbench


def test_the_daily_table_is_an_asset_that_shows_its_rows_and_columns(weeks: Workbench, tmp_path: Path) -> None:
    shutil.copytree(weeks.data / "lake", tmp_path / "lake")
    bench = open_data(tmp_path)
    with dg.DagsterInstance.ephemeral() as instance:
        result = dg.materialize([daily_figures], instance=instance, resources={"stores": Stores(lambda: bench)})
        [made] = result.asset_materializations_for_node("daily_figures")
    table = pl.read_parquet(tmp_path / "daily_figures.parquet")
    assert_frame_equal(table, figures_of_every_day(bench.lake))
    assert made.metadata["dagster/row_count"].value == table.height
    shown = daily_figures.metadata_by_key[daily_figures.key]["dagster/column_schema"]
    assert isinstance(shown, dg.TableSchema)
    assert [column.name for column in shown.columns] == table.columns
    assert daily_schema() == table.schema
