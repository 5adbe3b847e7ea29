-- plugs: with which plugs and models the answers of a night were given, and how each plug was trained
-- Grain:  one row per kind, plug_sha256
-- Params: $ds (DATE)
-- Holds:  answer_count >= 1; what is said of the training is null where it was recorded in another warehouse
with trainings as (
    select
        config ->> 'plug_sha256' as plug_sha256,
        ended_at as trained_at,
        epoch(ended_at) - epoch(started_at) as seconds,
        rows_in as example_count,
        (config ->> 'user_count')::int as user_count,
        (config ->> 'held_out_user_count')::int as held_out_user_count,
        (config ->> 'held_out_loss')::double as held_out_loss,
        (config ->> 'loss_without_plug')::double as loss_without_plug,
        config ->> 'encoder' as encoder,
        config ->> 'llm' as llm
    from runs
    where job = 'train' and status = 'done'
    qualify row_number() over (partition by config ->> 'plug_sha256' order by ended_at desc) = 1
),

answered as (
    select
        kind,
        plug_sha256,
        count(*) as answer_count,
        min(persona_ds) as persona_ds
    from outputs
    where ds = $ds
    group by kind, plug_sha256
)

select
    answered.kind,
    answered.plug_sha256,
    answered.answer_count,
    answered.persona_ds,
    trainings.trained_at,
    trainings.seconds,
    trainings.example_count,
    trainings.user_count,
    trainings.held_out_user_count,
    trainings.held_out_loss,
    trainings.loss_without_plug,
    trainings.encoder,
    trainings.llm
from answered
left join trainings using (plug_sha256)
order by answered.kind
