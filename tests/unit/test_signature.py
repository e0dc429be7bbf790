"""An image is taken only with a signature by a key of the policy, of this image and for this name."""

from __future__ import annotations

import asyncio
import base64
import json
import subprocess
import sys
from typing import TYPE_CHECKING, Protocol

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, padding, rsa
from hypothesis import given
from hypothesis import strategies as st

from ocishim.errors import FailedPrecondition, PermissionDenied, Unavailable
from ocishim.images import signature
from ocishim.images.signature import SignedPayload
from ocishim.spec import image, policy, reference

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

    Sign = Callable[[bytes], bytes]

INDEX, MANIFEST, OTHER = (f"sha256:{each * 64}" for each in "abc")
NAME = "host.example/team/app"
IMAGE = f"{NAME}:v1"
REFUSED = f"^SignatureValidationFailed: {IMAGE}: "


class HasPublicKey(Protocol):
    """Any private key."""

    def public_key(self) -> PublicKeyTypes: ...


def pem(key: HasPublicKey) -> bytes:
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_key().public_bytes(serialization.Encoding.PEM, form)


def by_curve(key: ec.EllipticCurvePrivateKey, algorithm: hashes.HashAlgorithm) -> Sign:
    return lambda payload: key.sign(payload, ec.ECDSA(algorithm))


KEY = ec.generate_private_key(ec.SECP256R1())
SIGN = by_curve(KEY, hashes.SHA256())
STRANGER = by_curve(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256())
RSA = rsa.generate_private_key(65537, 2048)


def payload(digest: str = MANIFEST, claimed: str = IMAGE, **more: object) -> bytes:
    critical = {
        "identity": {"docker-reference": claimed},
        "image": {"docker-manifest-digest": digest},
        "type": "cosign container image signature",
    }
    return json.dumps({"critical": critical | more, "optional": None}, separators=(",", ":")).encode()


def signed(content: bytes, sign: Sign = SIGN) -> SignedPayload:
    return SignedPayload(content, base64.b64encode(sign(content)).decode())


def required(key: bytes | None = None, **more: object) -> dict[str, object]:
    return {"type": "sigstoreSigned", "keyData": base64.b64encode(key or pem(KEY)).decode(), **more}


def rules(*requirements: dict[str, object]) -> policy.Policy:
    return policy.parse(json.dumps({"default": requirements}).encode(), "policy.json")


class Signatures:
    """Signatures by digest; remembers what was asked for."""

    def __init__(self, **by_name: Sequence[SignedPayload]) -> None:
        self._by_digest = {INDEX: by_name.get("index", []), MANIFEST: by_name.get("manifest", [])}
        self.asked: list[str] = []

    async def __call__(self, digest: str) -> Sequence[SignedPayload]:
        self.asked.append(digest)
        return self._by_digest[digest]


async def judge(
    *found: SignedPayload, rule: policy.Policy | None = None, wanted: str = IMAGE, index: Sequence[SignedPayload] = ()
) -> Signatures:
    signatures = Signatures(manifest=found, index=index)
    await signature.check(rule or rules(required()), reference.parse(wanted), [INDEX, MANIFEST], signatures)
    return signatures


async def test_an_image_that_is_signed_is_taken() -> None:
    await judge(signed(payload()))


async def test_the_index_may_be_signed_instead() -> None:
    signatures = await judge(index=[signed(payload(INDEX))])
    assert signatures.asked == [INDEX]


@pytest.mark.parametrize("algorithm", [hashes.SHA256(), hashes.SHA384()])
async def test_p384_signs_as_old_and_new_cosign_do(algorithm: hashes.HashAlgorithm) -> None:
    key = ec.generate_private_key(ec.SECP384R1())
    await judge(signed(payload(), by_curve(key, algorithm)), rule=rules(required(pem(key))))


@pytest.mark.parametrize("algorithm", [hashes.SHA256(), hashes.SHA512()])
async def test_p521_signs_as_old_and_new_cosign_do(algorithm: hashes.HashAlgorithm) -> None:
    key = ec.generate_private_key(ec.SECP521R1())
    await judge(signed(payload(), by_curve(key, algorithm)), rule=rules(required(pem(key))))


async def test_ed25519_is_taken() -> None:
    key = ed25519.Ed25519PrivateKey.generate()
    await judge(signed(payload(), key.sign), rule=rules(required(pem(key))))


async def test_rsa_is_taken_in_both_forms_of_its_key() -> None:
    signature = signed(payload(), lambda content: RSA.sign(content, padding.PKCS1v15(), hashes.SHA256()))
    old = RSA.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.PKCS1)
    await judge(signature, rule=rules(required(pem(RSA)), required(old)))


@pytest.mark.parametrize("algorithm", [hashes.SHA384(), hashes.SHA512()])
async def test_rsa_and_p256_are_taken_with_sha256_only(algorithm: hashes.HashAlgorithm) -> None:
    by_rsa = signed(payload(), lambda content: RSA.sign(content, padding.PKCS1v15(), algorithm))
    with pytest.raises(PermissionDenied, match=REFUSED):
        await judge(by_rsa, rule=rules(required(pem(RSA))))
    with pytest.raises(PermissionDenied, match=REFUSED):
        await judge(signed(payload(), by_curve(KEY, algorithm)))


async def test_no_signature_is_said_so() -> None:
    with pytest.raises(PermissionDenied, match=f"{REFUSED}no signature found of {INDEX} or {MANIFEST}$"):
        await judge()


async def test_a_signature_by_another_key_is_refused() -> None:
    with pytest.raises(PermissionDenied, match=f"{REFUSED}1 signature found, none verifies with .*: a signature by an"):
        await judge(signed(payload(), STRANGER))


async def test_a_signature_of_another_image_is_refused() -> None:
    with pytest.raises(PermissionDenied, match=f"{REFUSED}.*a signature of '{OTHER}', not of {MANIFEST}$"):
        await judge(signed(payload(OTHER)))


async def test_the_index_signature_does_not_count_as_the_manifests() -> None:
    with pytest.raises(PermissionDenied, match=f"{REFUSED}.*a signature of '{INDEX}', not of {MANIFEST}$"):
        await judge(signed(payload(INDEX)))


async def test_a_signature_for_another_name_is_refused() -> None:
    with pytest.raises(PermissionDenied, match=f"{REFUSED}.*for 'host.example/other:v1', which signedIdentity match"):
        await judge(signed(payload(claimed="host.example/other:v1")))


async def test_cosigns_claim_without_a_tag_needs_match_repository_and_the_message_says_so() -> None:
    with pytest.raises(PermissionDenied, match=f"{REFUSED}.*it names no tag.*matchRepository"):
        await judge(signed(payload(claimed=NAME)))
    await judge(signed(payload(claimed=NAME)), rule=rules(required(signedIdentity={"type": "matchRepository"})))


async def test_a_reference_by_digest_takes_a_signature_for_any_tag() -> None:
    await judge(signed(payload(claimed=f"{NAME}:v7")), wanted=f"{NAME}@{MANIFEST}")


async def test_a_payload_that_was_changed_is_refused() -> None:
    good = signed(payload(OTHER))
    with pytest.raises(PermissionDenied, match=f"{REFUSED}.*by another key, or of something else"):
        await judge(SignedPayload(good.payload.replace(OTHER.encode(), MANIFEST.encode()), good.signature))


@pytest.mark.parametrize("text", ["%%%", "é", "QQ", "Q", "\n"])
async def test_a_signature_that_is_not_base64_is_refused(text: str) -> None:
    with pytest.raises(PermissionDenied, match=f"{REFUSED}.*(not base64|by another key)"):
        await judge(SignedPayload(payload(), text))


async def test_a_signature_cut_short_is_refused() -> None:
    good = signed(payload())
    for length in range(0, len(good.signature), 7):
        with pytest.raises(PermissionDenied, match=REFUSED):
            await judge(SignedPayload(good.payload, good.signature[:length]))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not a JSON document"),
        (b"\xff\xfe\xfd", "not a JSON document"),
        (b"[" * 200_000, "not a JSON document"),
        (b'{"critical": 1, "critical": 2}', "'critical' is there twice"),
        (b"[]", "top level is wrong"),
        (b"{}", "critical is wrong"),
        (payload(type="atomic container signature"), "critical.type is wrong"),
        (payload(image={"docker-manifest-digest": None}), "docker-manifest-digest is wrong"),
        (payload(image={}), "docker-manifest-digest is wrong"),
        (payload(identity={"docker-reference": 1}), "docker-reference is wrong"),
        (payload(expires="2001-01-01"), "critical.expires is wrong"),
    ],
)
async def test_a_payload_of_garbage_is_refused_though_it_is_signed(content: bytes, reason: str) -> None:
    with pytest.raises(PermissionDenied, match=f"{REFUSED}.*{reason}"):
        await judge(signed(content))


async def test_what_is_not_signed_is_not_read() -> None:
    with pytest.raises(PermissionDenied, match=f"{REFUSED}.*by another key, or of something else$"):
        await judge(signed(b"not JSON", STRANGER))


async def test_a_payload_too_large_is_refused() -> None:
    with pytest.raises(PermissionDenied, match=f"{REFUSED}.*more than 1048576"):
        await judge(signed(payload() + b" " * signature.LARGEST_PAYLOAD))


async def test_one_good_signature_among_many_is_enough() -> None:
    bad = [signed(payload(), STRANGER), signed(payload(OTHER)), SignedPayload(b"", ""), signed(b"{}")]
    await judge(*bad, signed(payload()))


async def test_only_so_many_signatures_are_looked_at() -> None:
    bad = signed(payload(), STRANGER)
    await judge(*[bad] * (signature.MOST_SIGNATURES - 1), signed(payload()))
    with pytest.raises(PermissionDenied, match=f"{REFUSED}64 signatures found"):
        await judge(*[bad] * signature.MOST_SIGNATURES, signed(payload()))


async def test_the_reasons_are_said_once_and_not_all_of_them() -> None:
    bad = [signed(payload(claimed=f"host.example/{number}:v1")) for number in range(9)]
    with pytest.raises(PermissionDenied, match=r"18 signatures found.*/4:v1.*; and 4 other reasons$") as caught:
        await judge(*bad, *bad)
    assert str(caught.value).count("host.example/0:v1") == 1


async def test_all_requirements_must_hold() -> None:
    other = ec.generate_private_key(ec.SECP256R1())
    both = rules(required(), required(pem(other)))
    reviewed = signed(payload(), by_curve(other, hashes.SHA256()))
    signatures = await judge(signed(payload()), reviewed, rule=both)
    assert signatures.asked == [INDEX, MANIFEST], "each digest is asked for once"
    for only in (signed(payload()), reviewed):
        with pytest.raises(PermissionDenied, match=REFUSED):
            await judge(only, rule=both)
    with pytest.raises(PermissionDenied, match="the signature policy rejects this image"):
        await judge(signed(payload()), rule=rules(required(), {"type": "reject"}))
    with pytest.raises(PermissionDenied, match="no signature found"):
        await judge(rule=rules({"type": "insecureAcceptAnything"}, required()))


async def test_any_key_of_a_requirement_is_enough(tmp_path: Path) -> None:
    other = ec.generate_private_key(ec.SECP256R1())
    paths = [tmp_path / "a.pub", tmp_path / "b.pub"]
    for path, key in zip(paths, (KEY, other), strict=True):
        path.write_bytes(pem(key))
    rule = rules({"type": "sigstoreSigned", "keyPaths": [str(path) for path in paths]})
    await judge(signed(payload()), rule=rule)
    await judge(signed(payload(), by_curve(other, hashes.SHA256())), rule=rule)
    with pytest.raises(PermissionDenied, match=f"{REFUSED}.*{paths[0]} or {paths[1]}: "):
        await judge(signed(payload(), STRANGER), rule=rule)


async def test_nothing_is_fetched_that_is_not_needed() -> None:
    assert (await judge(rule=rules({"type": "insecureAcceptAnything"}))).asked == []
    signatures = Signatures()
    with pytest.raises(PermissionDenied, match=f"{REFUSED}the signature policy rejects this image"):
        await signature.check(
            rules({"type": "reject"}, required()), reference.parse(IMAGE), [INDEX, MANIFEST], signatures
        )
    assert signatures.asked == []


async def test_a_registry_that_does_not_answer_is_not_taken_for_one_without_signatures() -> None:
    async def fetch(digest: str) -> Sequence[SignedPayload]:
        raise Unavailable(f"no {digest}")

    with pytest.raises(Unavailable):
        await signature.check(rules(required()), reference.parse(IMAGE), [MANIFEST], fetch)


async def test_a_key_that_is_replaced_counts_at_once(tmp_path: Path) -> None:
    path = tmp_path / "cosign.pub"
    rule = rules({"type": "sigstoreSigned", "keyPath": str(path)})
    with pytest.raises(FailedPrecondition, match=f"{REFUSED}public key {path} cannot be read: No such file"):
        await judge(signed(payload()), rule=rule)
    path.write_bytes(pem(KEY))
    await judge(signed(payload()), rule=rule)
    path.write_bytes(pem(RSA))
    with pytest.raises(PermissionDenied, match=REFUSED):
        await judge(signed(payload()), rule=rule)


PRIVATE = KEY.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"garbage", "no public key in PEM"),
        (pem(KEY)[:60], "no public key in PEM"),
        (pem(KEY).replace(b"M", b"N"), "no public key in PEM"),
        (PRIVATE, "a private key"),
        (pem(KEY) + pem(RSA), "holds several keys"),
        (pem(ec.generate_private_key(ec.SECP256K1())), "none of ECDSA on P-256"),
        (pem(rsa.generate_private_key(65537, 1024)), "none of ECDSA on P-256"),  # noqa: S505 - for being refused
        (pem(ed448.Ed448PrivateKey.generate()), "none of ECDSA on P-256"),
        (b"x" * 70_000, "more than 65536 bytes"),
    ],
)
async def test_a_key_that_is_no_use_is_named(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "cosign.pub"
    path.write_bytes(content)
    with pytest.raises(FailedPrecondition, match=f"{REFUSED}public key {path} .*{reason}"):
        await judge(signed(payload()), rule=rules({"type": "sigstoreSigned", "keyPath": str(path)}))


async def test_a_key_in_the_policy_is_named_by_its_place() -> None:
    keys = [base64.b64encode(key).decode() for key in (pem(KEY), b"garbage")]
    with pytest.raises(FailedPrecondition, match=rf"{REFUSED}public key keyDatas\.1 is no public key in PEM"):
        await judge(signed(payload()), rule=rules({"type": "sigstoreSigned", "keyDatas": keys}))
    with pytest.raises(PermissionDenied, match=f"{REFUSED}1 signature found, none verifies with keyData: "):
        await judge(signed(payload(), STRANGER))


@given(
    st.binary(max_size=300), st.text(max_size=100) | st.binary(max_size=100).map(lambda b: base64.b64encode(b).decode())
)
def test_any_payload_and_signature_is_refused_in_words(content: bytes, text: str) -> None:
    for key in (pem(KEY), pem(RSA)):
        with pytest.raises(PermissionDenied, match=REFUSED):
            asyncio.run(judge(SignedPayload(content, text), rule=rules(required(key))))


@given(st.binary(max_size=300))
def test_any_signed_payload_that_cosign_would_not_make_is_refused_in_words(content: bytes) -> None:
    with pytest.raises(PermissionDenied, match=REFUSED):
        asyncio.run(judge(signed(content)))


def test_a_policy_is_read_from_its_file(tmp_path: Path) -> None:
    path = tmp_path / "policy.json"
    with pytest.raises(FailedPrecondition, match=f"^SignatureValidationFailed: signature policy {path} cannot be read"):
        signature.load_policy(str(path))
    path.write_text('{"default": [{"type": "signedBy"}]}')
    with pytest.raises(FailedPrecondition, match=f"^SignatureValidationFailed: signature policy {path}: default.0: "):
        signature.load_policy(str(path))
    path.write_text('{"default": [{"type": "reject"}]}')
    assert signature.load_policy(str(path)) == rules({"type": "reject"})


def test_the_tag_of_signatures_is_cosigns() -> None:
    assert signature.signature_tag(MANIFEST) == f"sha256-{'b' * 64}.sig"


def layer(media_type: str = signature.PAYLOAD_TYPE, size: int = 200, **annotations: str) -> image.Descriptor:
    names = {"cosign": signature.SIGNATURE_ANNOTATION, "chain": "dev.sigstore.cosign/chain"}
    return image.Descriptor(
        media_type=media_type,
        digest=OTHER,
        size=size,
        annotations={names[key]: value for key, value in annotations.items()},
    )


def test_payloads_are_told_from_other_layers() -> None:
    good = layer(cosign="QQ==", chain="x")
    layers = [
        layer(),
        layer(cosign=""),
        layer("application/vnd.oci.image.layer.v1.tar+gzip", cosign="QQ=="),
        layer(size=signature.LARGEST_PAYLOAD + 1, cosign="QQ=="),
        good,
    ]
    assert signature.signature_layers(image.Manifest(config=layer(), layers=layers)) == [(good, "QQ==")]
    many = image.Manifest(config=layer(), layers=[good] * 200)
    assert len(signature.signature_layers(many)) == signature.MOST_SIGNATURES


def test_a_server_without_signed_images_does_not_load_the_cryptography() -> None:
    code = "import sys, ocishim.images.signature; sys.exit('cryptography' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
