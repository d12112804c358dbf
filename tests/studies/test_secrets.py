"""What is secret never leaves the program, whichever way it would."""

import json
import os

import pytest
from paretune.studies import Records, UserError, plain_without_secrets, without_secrets


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://ann:s3cret@db/x failed", "postgresql://ann:***@db/x failed"),
        ("postgresql+psycopg://ann:s3@cret@db:5/x", "postgresql+psycopg://ann:***@db:5/x"),
        ("postgresql://ann:s3%40cret@db/x", "postgresql://ann:***@db/x"),
        ("postgresql://ann:s3/cret@db/x", "postgresql://ann:***@db/x"),
        ("postgresql://:s3cret@db/x", "postgresql://:***@db/x"),
        ("'postgresql://db/x?user=ann&password=s3cret&a=b'", "'postgresql://db/x?user=ann&password=***&a=b'"),
        ("postgresql://db/x?password=s3cret", "postgresql://db/x?password=***"),
        ("connect with host=db password=s3cret user=ann", "connect with host=db password=*** user=ann"),
        ("connect with password='s3 cret' user=ann", "connect with password=*** user=ann"),
        ("https://s3cret@github.com/a/b", "https://***@github.com/a/b"),
        ("GET https://x.org/f?token=s3cret&a=1", "GET https://x.org/f?token=***&a=1"),
        ("https://s3.org/f?X-Amz-Signature=s3cret&a=1", "https://s3.org/f?X-Amz-Signature=***&a=1"),
        ("Driver=x;UID=ann;PWD=s3cret;Server=db", "Driver=x;UID=ann;PWD=***;Server=db"),
        ("psql --password s3cret --host db", "psql --password *** --host db"),
        ("hf download --hub-token s3cret", "hf download --hub-token ***"),
        ("Set-Cookie: session=s3cret; Path=/", "Set-Cookie: ***"),
        (
            "-----BEGIN PRIVATE KEY-----\ns3\ncret\n-----END PRIVATE KEY-----",
            "-----BEGIN PRIVATE KEY-----***-----END PRIVATE KEY-----",
        ),
        ("401 for token hf_AbCdEf123456", "401 for token hf_***"),
        ("Authorization: Bearer s3cret.s3cret", "Authorization: Bearer ***"),
        ("{'authorization': 'Basic czNjcmV0', 'a': 1}", "{'authorization': 'Basic ***', 'a': 1}"),
        ("curl -H bearer s3crets3cret", "curl -H bearer ***"),
        ("HF_TOKEN=s3cret python run.py", "HF_TOKEN=*** python run.py"),
        ('{"api_key": "s3cret", "n": 1}', '{"api_key": ***, "n": 1}'),
        ("wandb: api-key: s3cret", "wandb: api-key: ***"),
        ("sk-abcdefghijklmnop0123", "sk-***"),
        ("ghp_abcdefghijklmnop0123", "ghp_***"),
        ("sshpass -p s3cret ssh ann@host", "sshpass -p *** ssh ann@host"),
        ("mysqldump -u ann -ps3cret shop", "mysqldump -u ann -p*** shop"),
        ("docker login -u ann -p s3cret registry.org", "docker login -u ann -p *** registry.org"),
        ("redis-cli -h db -a s3cret ping", "redis-cli -h db -a *** ping"),
        ("curl -s -u ann:s3cret https://x.org", "curl -s -u ann:*** https://x.org"),
        ("ALTER USER ann WITH PASSWORD 's3 cret';", "ALTER USER ann WITH PASSWORD ***;"),
        ("CREATE USER ann IDENTIFIED BY 's3cret'", "CREATE USER ann IDENTIFIED BY ***"),
        ("machine db login ann password hunter", "machine db login ann password ***"),
        ("ENV DB_PASSWORD hunter", "ENV DB_PASSWORD ***"),
        ("set PGPASSWORD s3cret", "set PGPASSWORD ***"),
        ("PASSWORD s3cret was refused", "PASSWORD *** was refused"),
        ("DB_PASSWORD s3cret", "DB_PASSWORD ***"),
    ],
)
def test_secrets_become_stars(text: str, shown: str) -> None:
    assert without_secrets(text, {}) == shown


@pytest.mark.parametrize(
    "text",
    [
        "nothing to hide at https://example.org/a@b",
        "write to ann@example.org",
        "PWD=/home/ann python run.py",
        "give it by environment, not --password",
        "postgresql://ann@db/x",
        "sqlite:///paretune.db",
        'password authentication failed for user "ann"',
        "a prompt has 77 tokens, pad_token=<|endoftext|>, token=None",
        "tokenizer.model_max_length = 77",
        "mkdir -p /tmp/a && docker run -p 8080:80 image",
        "psql -p 5432 -h db",
        "HF_TOKEN is not set, and PASSWORD must be given",
        "the password was wrong; set a password first",
        "TOKEN count 77 of 77",
        "curl -u needs a name",
    ],
)
def test_what_is_not_secret_stays(text: str) -> None:
    assert without_secrets(text, {}) == text


def test_what_the_environment_calls_secret_is_secret_wherever_it_stands() -> None:
    environment = {
        "PARETUNE_STORAGE": "postgresql://ann:s3%20cret%2F@db/x",
        "OTHER": "postgresql://db/x?password=another1",
        "WANDB_API_KEY": "0123456789",
        "MY_TOKEN": "abc def ghi",
        "LANG": "C.UTF-8",
    }
    for secret in ("s3%20cret%2F", "s3 cret/", "another1", "0123456789", "abc def ghi", "abc%20def%20ghi"):
        assert without_secrets(f"it said '{secret}' in C.UTF-8", environment) == "it said '***' in C.UTF-8"
    assert without_secrets("x0123456789", environment) == "x0123456789"


def test_every_text_in_plain_data() -> None:
    data = {"a": ["postgresql://ann:s3cret@db/x", {"b": "hf_s3cret"}], "n": 1, "none": None}
    assert plain_without_secrets(data) == {"a": ["postgresql://ann:***@db/x", {"b": "hf_***"}], "n": 1, "none": None}


def test_what_a_key_of_plain_data_calls_secret() -> None:
    data = {"DB_PASSWORD": "hunter", "options": {"hub_token": "abc", "tokens": 77, "pad_token": "<|end|>"}}
    assert plain_without_secrets(data) == {
        "DB_PASSWORD": "***",
        "options": {"hub_token": "***", "tokens": 77, "pad_token": "<|end|>"},
    }


@pytest.mark.timeout(60)
@pytest.mark.parametrize("piece", ["a-", "A_", "//a:", "eyJaaaaaaaa-", "mysql ", "docker ", "password ", "token "])
def test_however_long_a_text_is_it_is_read_once(piece: str) -> None:
    """A process may print what it likes, and its whole log goes through this."""
    text = piece * (300_000 // len(piece))
    assert without_secrets(text, {}) == text


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://ann:s3cret@nowhere.invalid/x",
        "postgresql://ann:p@s3cret@nowhere.invalid/x",
        "postgresql://nowhere.invalid/x?user=ann&password=s3cret",
        "mysql://ann:s3cret@nowhere.invalid/x",
        "postgresql//ann:s3cret@nowhere.invalid/x?password=s3cret",
        "sqlite://ann:s3cret@/",
        "postgresql://ann:p/@s3cret@nowhere.invalid/x",
        "postgresql://ann:p?@s3cret@nowhere.invalid/x",
        "postgresql://ann:p s3cret@nowhere.invalid/x",
        "postgresql://ann:p\ns3cret@nowhere.invalid/x",
        "postgresql://nowhere.invalid/x?password=p@s3cret",
        "postgresql://nowhere.invalid/x?password=p's3cret&user=ann",
        'postgresql://nowhere.invalid/x?password=p"s3cret',
        "postgresql://nowhere.invalid/x?password=p s3cret",
        "postgresql://nowhere.invalid/x?password=p&s3cret",
    ],
)
def test_a_database_that_cannot_be_used_is_named_without_its_password(url: str) -> None:
    with pytest.raises(UserError) as refusal:
        Records(url, must_exist=True)
    assert "s3cret" not in str(refusal.value)


def test_a_password_with_an_at_sign_is_to_be_written_otherwise() -> None:
    with pytest.raises(UserError, match=r"^--storage postgresql://ann:\*\*\*@db/x: write an @ in the password as %40$"):
        Records("postgresql://ann:s3@cret@db/x")


def test_the_environment_is_this_processs_own_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_SECRET", "what nobody knows")
    assert "SOME_SECRET" in os.environ
    assert json.dumps(without_secrets("what nobody knows, that")) == '"***, that"'
