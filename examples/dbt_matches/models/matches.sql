-- The newest version of the match table: its Parquet files never change.
{% set folder = env_var('IMGSIM_STORE') ~ '/matches/' ~ var('pair') ~ '/' %}
{{ config(
    materialized='table',
    pre_hook="set variable match_files = (
        select list('" ~ folder ~ "' || file.path)
        from (select unnest(files) as file from read_json('" ~ folder ~ "_latest.json'))
        where file.role = 'rows'
    )"
) }}
select left_id, right_id, similarity, rank
from read_parquet(getvariable('match_files'))
