-- personas_at: a user's persona as of a night: the newest stored part of it, and the items since.
-- Grain:  one row per user_id
-- Params: $night (DATE), $is_wanted (BOOL): which users; $sums (DOUBLE[]): the sum of each number of the vectors
-- Holds:  users without items have no row; oldest first in vectors, vector_scales, counts, items and label_counts
with span as (
    select
        max(encode_nights.ds) as ds,
        max(encode_nights.ds) filter (where encode_nights.is_full) as first_ds,
        arg_max(encode_nights.encoder_sha256, encode_nights.ds) as encoder_sha256,
        arg_max(encode_nights.run_id, encode_nights.ds) as run_id
    from encode_nights
    where encode_nights.ds <= $night
),

bases as (
    select persona_vectors.*
    from persona_vectors
    inner join span
        on
            persona_vectors.ds between span.first_ds and span.ds
            and persona_vectors.encoder_sha256 = span.encoder_sha256
    where $is_wanted
    qualify row_number() over (partition by persona_vectors.user_id order by persona_vectors.ds desc) = 1
),

items as (
    select history_vectors.*
    from history_vectors
    inner join span
        on
            history_vectors.ds between span.first_ds and span.ds
            and history_vectors.encoder_sha256 = span.encoder_sha256
    where $is_wanted
    qualify
        row_number() over (
            partition by history_vectors.user_id, history_vectors.kind, history_vectors.item_id
            order by history_vectors.ds desc
        ) = 1
),

since as (
    select items.*
    from items
    left join bases
        on
            items.user_id = bases.user_id
            and bases.item_count > 0
    where
        not items.is_deleted
        -- an item without a vector of its own is in the stored part, or in no persona
        and items.vector_scale > 0
        and (
            bases.user_id is null
            or (items.posted_at, items.kind, items.item_id)
            > (bases.last_posted_at, bases.last_item.kind, bases.last_item.item_id)
        )
),

singles as (
    select
        user_id,
        list(vector order by posted_at, kind, item_id) as vectors,
        list(vector_scale order by posted_at, kind, item_id) as vector_scales,
        list({ 'kind': kind, 'item_id': item_id } order by posted_at, kind, item_id) as items,
        list(
            case when label is null then [] else [{ 'label': label, 'count': 1::int }] end
            order by posted_at, kind, item_id
        ) as label_counts,
        list(label order by posted_at, kind, item_id) filter (where label is not null) as newest_labels,
        sha256(string_agg(concat_ws(chr(0), kind, item_id, item_sha256), chr(0) order by posted_at, kind, item_id))
            as items_sha256,
        count(*)::int as item_count,
        min(posted_at) as first_posted_at,
        max(posted_at) as last_posted_at,
        arg_max({ 'kind': kind, 'item_id': item_id }, (posted_at, kind, item_id)) as last_item
    from since
    group by user_id
),

weighted as (
    select
        user_id,
        vector,
        vector_scale::double as weight
    from since
    union all
    select
        user_id,
        unnest(vectors) as item_vector,
        unnest(vector_scales)::double * unnest(counts) as weight
    from bases
),

totals as (
    select
        user_id,
        $sums as total
    from weighted
    group by user_id
),

directions as (
    select
        user_id,
        sqrt(list_dot_product(total, total)) as length,
        [(number / length)::float for number in total] as direction
    from totals
),

joined as (
    select
        coalesce(bases.user_id, singles.user_id) as user_id,
        coalesce(bases.vectors, []) || coalesce(singles.vectors, []) as vectors,
        coalesce(bases.vector_scales, []) || coalesce(singles.vector_scales, []) as vector_scales,
        coalesce(bases.counts, []) || list_resize([]::int[], coalesce(singles.item_count, 0), 1) as counts,
        coalesce(bases.items, []) || coalesce(singles.items, []) as items,
        coalesce(bases.item_count, 0) + coalesce(singles.item_count, 0) as item_count,
        coalesce(bases.first_posted_at, singles.first_posted_at) as first_posted_at,
        coalesce(singles.last_posted_at, bases.last_posted_at) as last_posted_at,
        sha256(concat_ws(chr(0), nullif(bases.items_sha256, ''), singles.items_sha256)) as items_sha256,
        coalesce(bases.label_counts, []) || coalesce(singles.label_counts, []) as label_counts,
        (coalesce(bases.newest_labels, []) || coalesce(singles.newest_labels, []))[-30:] as newest_labels,
        coalesce(singles.last_item, bases.last_item) as last_item
    from singles
    full join bases using (user_id)
)

select
    joined.user_id,
    case
        when directions.length > 1e-6 * joined.item_count
            then directions.direction
        -- vectors that cancel out have no direction: any will do
        else [1::float] || list_resize([]::float[], len(directions.direction) - 1, 0)
    end as persona,
    joined.vectors,
    joined.counts,
    joined.items,
    joined.item_count,
    joined.first_posted_at,
    joined.last_posted_at,
    joined.items_sha256,
    span.encoder_sha256,
    span.run_id,
    joined.vector_scales,
    joined.label_counts,
    joined.newest_labels,
    joined.last_item,
    span.ds
from joined
cross join span
left join directions using (user_id)
where joined.item_count > 0
