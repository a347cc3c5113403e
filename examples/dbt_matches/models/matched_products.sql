-- One row for each product with a match: its best article, and how many there are.
select
    left_id as product_id,
    arg_max(right_id, similarity) as article_id,
    max(similarity) as similarity,
    count(*) as articles
from {{ ref('matches') }}
group by left_id
