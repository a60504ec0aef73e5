"""The handshake: who knows the token gets in, and nobody else does."""

import os
import random

import pytest

from rainshed.ops.errors import AuthError, ProtocolError, UsageError
from rainshed.runtime import auth
from rainshed.runtime.auth import Connector, Identity, Listener

TOKEN = bytes(range(32))
W = Identity("worker", "w0", "job", incarnation=3, plan_hash="abc")
C = Identity("coordinator", "c", "job", plan_hash="abc")


def shake(connector=W, listener=C, tokens=(TOKEN, TOKEN), change=lambda step, data: data):
    """The whole handshake; `change` stands in the middle and may change what is sent as step 0 to 3."""
    a, b = Connector(connector, tokens[0]), Listener(listener, tokens[1])
    welcome = b.welcome(change(0, a.hello()))
    accept, theirs = b.accept(change(2, a.proof(change(1, welcome))))
    return a.session(change(3, accept)), theirs


def test_both_learn_who_the_other_is():
    a, b = shake()
    assert (a.peer.role, a.peer.name, a.peer.incarnation) == ("coordinator", "c", 0)
    assert (b.peer.role, b.peer.name, b.peer.incarnation, b.peer.job) == ("worker", "w0", 3, "job")
    assert str(b.peer) == "worker w0"
    assert a.key == b.key and a.checksum == b.checksum


def test_sequence_numbers_fit_and_are_new_each_time():
    a, b = shake()
    assert a.outgoing().seq == b.incoming().seq
    assert b.outgoing().seq == a.incoming().seq
    numbers = {a.outgoing().seq, a.incoming().seq} | {s.outgoing().seq for s in shake()}
    assert len(numbers) == 4


def test_secrets_are_not_printed():
    a, _ = shake()
    assert a.key.hex() not in repr(a) and repr(a.key) not in repr(a)


@pytest.mark.parametrize("other", [b"", b"x" * 32, TOKEN[:-1]], ids=["absent", "wrong", "short"])
def test_a_wrong_token_is_refused_by_either_side(other):
    with pytest.raises(AuthError, match="token"):
        shake(tokens=(other, TOKEN))
    a, b = Connector(W, other), Listener(C, TOKEN)
    a._check_mac = lambda mac, label: None  # a connector that does not care whom it talks to
    with pytest.raises(AuthError, match="does not hold this job's token"):
        b.accept(a.proof(b.welcome(a.hello())))


def test_another_job_is_refused_by_name():
    with pytest.raises(AuthError, match=r"worker w0 is of job 'other', coordinator c of job 'job'"):
        shake(connector=Identity("worker", "w0", "other"))


def test_another_plan_is_refused_with_both_hashes():
    with pytest.raises(AuthError, match=r"another plan[\s\S]*abc[\s\S]*def|another plan[\s\S]*def[\s\S]*abc"):
        shake(connector=Identity("worker", "w0", "job", plan_hash="def"))
    a, _ = shake(connector=Identity("worker", "w0", "job"))
    assert a.peer.name == "c"


@pytest.mark.parametrize("major, upgrade", [(0, "the other one"), (2, "this one")])
@pytest.mark.parametrize("step", range(4))
def test_another_major_version_is_refused_naming_both_and_whom_to_upgrade(major, upgrade, step):
    def change(at, data):
        return data[:4] + bytes([major]) + data[5:] if at == step else data

    with pytest.raises(AuthError, match=rf"version {major}\.0, this one 1\.0[\s\S]*upgrade .* {upgrade}"):
        shake(change=change)


def test_another_minor_version_is_fine(monkeypatch):
    a = Connector(W, TOKEN)
    monkeypatch.setattr(auth, "VERSION", (1, 7))
    b = Listener(C, TOKEN)
    accept, theirs = b.accept(a.proof(b.welcome(a.hello())))
    assert (a.session(accept).peer_version, theirs.peer_version) == ((1, 7), (1, 0))


def test_the_same_process_twice_is_refused():
    with pytest.raises(AuthError, match="both ends say they are worker w0, incarnation 3"):
        shake(connector=W, listener=W)


def test_reflected_messages_are_refused():
    a = Connector(W, TOKEN)
    with pytest.raises(ProtocolError, match="Hello where Welcome"):
        a.proof(a.hello())
    a, b = Connector(W, TOKEN), Listener(C, TOKEN)
    welcome = b.welcome(a.hello())
    for reflected in (welcome, a.hello(), auth._pack(auth.Proof(auth._unpack(welcome, auth.Welcome).mac))):
        with pytest.raises((AuthError, ProtocolError)):
            b.accept(reflected)
    mirror = Listener(W, TOKEN)  # the connector's own process, asked to prove itself to itself
    with pytest.raises(AuthError, match="both ends"):
        mirror.welcome(a.hello())


def test_a_recorded_handshake_is_worth_nothing():
    sent = {}
    shake(change=lambda step, data: sent.setdefault(step, data))
    b = Listener(C, TOKEN)
    b.welcome(sent[0])
    with pytest.raises(AuthError, match="token"):
        b.accept(sent[2])
    a = Connector(W, TOKEN)
    with pytest.raises(AuthError, match="token"):
        a.proof(sent[1])


def test_a_proof_before_a_hello_is_refused():
    with pytest.raises((AuthError, ProtocolError)):
        Listener(C, TOKEN).accept(auth._pack(auth.Proof(bytes(32))))


@pytest.mark.parametrize("step", range(4))
def test_every_changed_byte_and_every_truncation_is_refused(step):
    length = []
    shake(change=lambda at, data: (length.append(len(data)) if at == step else None, data)[1])
    # The minor version outside of a hello says nothing: the hellos hold it, and their MACs are checked.
    for i in set(range(length[0])) - ({5} if step else set()):
        for change in (
            lambda at, data, i=i: data[:i] + bytes([data[i] ^ 1]) + data[i + 1 :] if at == step else data,
            lambda at, data, i=i: data[:i] if at == step else data,
        ):
            with pytest.raises((AuthError, ProtocolError)):
                shake(change=change)


def test_random_bytes_raise_nothing_but_our_errors():
    rng = random.Random(7)
    for i in range(2000):
        body = rng.randbytes(rng.randint(1, 200))
        data = auth.PREFIX.pack(auth.MAGIC, *auth.VERSION, len(body)) + body if i % 2 else body
        for hear in (Connector(W, TOKEN).proof, Listener(C, TOKEN).welcome, Listener(C, TOKEN).accept):
            with pytest.raises((AuthError, ProtocolError)):
                hear(data)


@pytest.mark.parametrize("nbytes", [0, auth.MAX_BODY_NBYTES + 1, 65535])
def test_lengths_are_checked_before_a_body_is_read(nbytes):
    with pytest.raises(ProtocolError, match=f"of {nbytes} bytes"):
        auth.body_nbytes(auth.PREFIX.pack(auth.MAGIC, *auth.VERSION, nbytes))


def test_a_refusal_carries_its_reason():
    with pytest.raises(AuthError, match=r"refused by the other process: too late"):
        Connector(W, TOKEN).proof(auth.refusal(AuthError("too late")))


@pytest.mark.parametrize(
    "wrong", [Identity("w", "x" * 256, "j"), Identity("w", "n", "j", -1)], ids=["long", "negative"]
)
def test_identities_that_cannot_be_said_are_refused_at_home(wrong):
    with pytest.raises(UsageError, match="cannot be said"):
        Connector(wrong, TOKEN)


def test_identities_too_long_together_are_refused_at_home():
    with pytest.raises(UsageError, match="3072 or less"):
        Connector(Identity("ð" * 255, "𝕏" * 255, "𝕏" * 255, 0, "𝕏" * 255), TOKEN)


# -- token files ----


def test_token_files(tmp_path, monkeypatch):
    token = auth.new_token()
    path = tmp_path / "token"
    auth.write_token(path, token)
    assert path.stat().st_mode & 0o777 == 0o600
    assert auth.read_token(path) == token
    monkeypatch.setenv(auth.TOKEN_FILE_VARIABLE, str(path))
    assert auth.read_token() == token
    assert auth.new_token() != token and len(token) == 32
    with pytest.raises(UsageError, match="File exists"):
        auth.write_token(path, token)


def test_token_files_that_others_may_read_are_refused(tmp_path):
    path = tmp_path / "token"
    auth.write_token(path, TOKEN)
    os.chmod(path, 0o640)
    with pytest.raises(UsageError, match=r"mode is 640[\s\S]*chmod 600"):
        auth.read_token(path)


@pytest.mark.parametrize(
    "text", [b"", b"12ab", b"zz" * 32, b"00" * 500_000, b"\xff" * 64], ids=lambda t: f"{t[:2]!r} {len(t)}"
)
def test_token_files_that_hold_no_token_are_refused(tmp_path, text):
    path = tmp_path / "token"
    path.write_bytes(text)
    path.chmod(0o600)
    with pytest.raises(UsageError, match="64 hexadecimal digits"):
        auth.read_token(path)


def test_no_token_says_how_to_make_one(tmp_path, monkeypatch):
    monkeypatch.delenv(auth.TOKEN_FILE_VARIABLE, raising=False)
    with pytest.raises(UsageError, match="openssl rand -hex 32"):
        auth.read_token()
    with pytest.raises(UsageError, match="No such file"):
        auth.read_token(tmp_path / "none")
