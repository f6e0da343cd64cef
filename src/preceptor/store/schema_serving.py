"""The tables of the server: API keys, consent given in the playground, votes. Moments are seconds since 1970 in UTC."""

from sqlalchemy import Column, Float, ForeignKey, Integer, String, Table

from preceptor.store.schema import metadata

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", String, primary_key=True),
    Column("name", String, nullable=False, index=True),  # the owner: the user id of consented prompts
    Column("key_hash", String, nullable=False, unique=True),  # SHA-256 of a key of 256 random bits
    Column("hint", String, nullable=False),  # the key's first characters, to tell keys apart
    Column("requests_per_minute", Integer),  # none: no limit
    Column("tokens_per_minute", Integer),
    Column("created_at", Float, nullable=False),
    Column("revoked_at", Float),
)

consents = Table(
    "consents",
    metadata,
    Column("user_id", String, primary_key=True),
    Column("version", String, nullable=False),  # of the sentence that was agreed to
    Column("given_at", Float, nullable=False),
)

votes = Table(
    "votes",
    metadata,
    Column("ranking_id", ForeignKey("rankings.id"), primary_key=True),
    Column("vote", String, nullable=False),  # left, right, tie, bad
    Column("left_id", ForeignKey("completions.id"), nullable=False),
    Column("right_id", ForeignKey("completions.id"), nullable=False),
    Column("at", Float, nullable=False),
)
