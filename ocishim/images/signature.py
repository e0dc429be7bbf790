"""Signatures of images: whether what a registry has is what a policy's keys have signed.

The form is cosign's (its specs/SIGNATURE_SPEC.md): a payload of JSON names a digest and an identity, and an
annotation holds its signature. Nothing of a payload is read before its signature is verified.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ocishim.errors import FailedPrecondition, InvalidArgument, PermissionDenied
from ocishim.spec import policy as spec

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
    from cryptography.hazmat.primitives.hashes import HashAlgorithm

    from ocishim.spec.image import Descriptor, Manifest
    from ocishim.spec.policy import Policy, SigstoreSigned
    from ocishim.spec.reference import Reference

    Verify = Callable[[bytes, bytes], None]
    """Raises InvalidSignature where the first is no signature of the second."""
    Fetch = Callable[[str], Awaitable[Sequence["SignedPayload"]]]

PAYLOAD_TYPE: Final = "application/vnd.dev.cosign.simplesigning.v1+json"
SIGNATURE_ANNOTATION: Final = "dev.cosignproject.cosign/signature"
LARGEST_PAYLOAD: Final = 1 << 20
MOST_SIGNATURES: Final = 64
"""Looked at for each digest; whoever may push can add any number."""
_LARGEST_SIGNATURE: Final = 16 << 10
_LARGEST_KEY: Final = 64 << 10
_LARGEST_POLICY: Final = 4 << 20
_SHORTEST_RSA: Final = 2048
_MOST_REASONS: Final = 5
_LONGEST_QUOTE: Final = 200
_FAILED: Final = "SignatureValidationFailed"


@dataclass(frozen=True, slots=True)
class SignedPayload:
    """One signature as it was found."""

    payload: bytes
    signature: str
    """base64, as in the annotation."""


@dataclass(frozen=True, slots=True)
class _Key:
    name: str
    verify: Verify


class _Strict(BaseModel):
    # What a signer says is critical and is not understood must not be passed over.
    model_config = ConfigDict(extra="forbid", strict=True)


class _Image(_Strict):
    digest: str = Field(alias="docker-manifest-digest")


class _Identity(_Strict):
    reference: str = Field(alias="docker-reference")


class _Critical(_Strict):
    type: Literal["cosign container image signature"]
    image: _Image
    identity: _Identity


class _Payload(_Strict):
    critical: _Critical
    optional: dict[str, object] | None = None


def signature_tag(digest: str) -> str:
    """The tag of the manifest that holds the signatures of sha256:HEX, in the image's own repository."""
    return f"{digest.replace(':', '-')}.sig"


def signature_layers(manifest: Manifest) -> list[tuple[Descriptor, str]]:
    """The payloads that a manifest of signatures names, at most MOST_SIGNATURES, each with its signature in base64.

    One larger than LARGEST_PAYLOAD is none: it need not be fetched.
    """
    found = [
        (layer, layer.annotations[SIGNATURE_ANNOTATION])
        for layer in manifest.layers
        if layer.media_type == PAYLOAD_TYPE
        and layer.size <= LARGEST_PAYLOAD
        and layer.annotations.get(SIGNATURE_ANNOTATION)
    ]
    return found[:MOST_SIGNATURES]


def load_policy(path: str) -> Policy:
    """Read a policy file; blocks. Raises FailedPrecondition where it cannot be read or is no policy."""
    content = _read(path, _LARGEST_POLICY, f"{_FAILED}: signature policy {path}")
    try:
        return spec.parse(content, path)
    except InvalidArgument as error:
        raise FailedPrecondition(f"{_FAILED}: signature policy {error}") from error


async def check(policy: Policy, wanted: Reference, digests: Sequence[str], fetch: Fetch) -> None:
    """Raises PermissionDenied where the policy does not let this image in, FailedPrecondition for unreadable keys.

    `digests` are what the image goes by: its index's, if it has one, and its manifest's. `fetch` gives the signatures
    of one of them; it is called when they are needed, once for each.
    """
    what = f"{_FAILED}: {wanted}"
    found: dict[str, Sequence[SignedPayload]] = {}

    async def signatures(digest: str) -> Sequence[SignedPayload]:
        if digest not in found:
            found[digest] = (await fetch(digest))[:MOST_SIGNATURES]
        return found[digest]

    for requirement in policy.requirements(wanted):
        if isinstance(requirement, spec.Reject):
            raise PermissionDenied(f"{what}: the signature policy rejects this image")
        if not isinstance(requirement, spec.InsecureAcceptAnything):
            await _check_signed(requirement, wanted, digests, signatures)


async def _check_signed(requirement: SigstoreSigned, wanted: Reference, digests: Sequence[str], fetch: Fetch) -> None:
    what = f"{_FAILED}: {wanted}"
    keys = await asyncio.to_thread(_load_keys, requirement, what)
    reasons: list[str] = []
    for digest in dict.fromkeys(digests):
        signatures = await fetch(digest)
        refusals = await asyncio.to_thread(_refusals, signatures, keys, requirement, wanted, digest)
        if refusals is None:
            return
        reasons += refusals
    if not reasons:
        raise PermissionDenied(f"{what}: no signature found of {' or '.join(dict.fromkeys(digests))}")
    names = " or ".join(key.name for key in keys)
    count = "1 signature" if len(reasons) == 1 else f"{len(reasons)} signatures"
    raise PermissionDenied(f"{what}: {count} found, none verifies with {names}: {_summary(reasons)}")


def _summary(reasons: Iterable[str]) -> str:
    different = list(dict.fromkeys(reasons))
    more = [f"and {len(different) - _MOST_REASONS} other reasons"] if len(different) > _MOST_REASONS else []
    return "; ".join([*different[:_MOST_REASONS], *more])


def _refusals(
    signatures: Sequence[SignedPayload],
    keys: Sequence[_Key],
    requirement: SigstoreSigned,
    wanted: Reference,
    digest: str,
) -> list[str] | None:
    """Why each signature does not count; None as soon as one does."""
    reasons = []
    for each in signatures:
        reason = _unverified(each, keys) or _misplaced(each.payload, requirement, wanted, digest)
        if reason is None:
            return None
        reasons.append(reason)
    return reasons


def _unverified(signed: SignedPayload, keys: Sequence[_Key]) -> str | None:
    from cryptography.exceptions import InvalidSignature  # noqa: PLC0415 - with the first image that needs it

    if len(signed.payload) > LARGEST_PAYLOAD:
        return f"a payload of {len(signed.payload)} bytes, more than {LARGEST_PAYLOAD}"
    if len(signed.signature) > _LARGEST_SIGNATURE:
        return f"a signature of {len(signed.signature)} characters, more than {_LARGEST_SIGNATURE}"
    try:
        signature = base64.b64decode(signed.signature, validate=True)
    except (binascii.Error, ValueError):
        return "a signature that is not base64"
    for key in keys:
        try:
            key.verify(signature, signed.payload)
        except InvalidSignature:
            continue
        return None
    return "a signature by another key, or of something else"


def _misplaced(content: bytes, requirement: SigstoreSigned, wanted: Reference, digest: str) -> str | None:
    try:
        payload = _Payload.model_validate(json.loads(content, object_pairs_hook=spec.without_repeats))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        return f"a payload whose {'.'.join(map(str, first['loc'])) or 'top level'} is wrong: {first['msg']}"
    except (ValueError, RecursionError) as error:
        return f"a payload that is not a JSON document: {error}"
    critical = payload.critical
    if critical.image.digest != digest:
        return f"a signature of {_quote(critical.image.digest)}, not of {digest}"
    claimed, identity = critical.identity.reference, requirement.signed_identity
    if spec.identity_matches(identity, wanted, claimed):
        return None
    refused = f"a signature for {_quote(claimed)}, which signedIdentity {identity.type} does not take"
    if not spec.is_bare(claimed) or identity.type in ("matchRepository", "exactRepository"):
        return refused
    return f"{refused}: it names no tag, as cosign's do not; matchRepository or exactRepository can take it"


def _quote(text: str) -> str:
    return repr(text if len(text) <= _LONGEST_QUOTE else f"{text[:_LONGEST_QUOTE]}…")


def _load_keys(requirement: SigstoreSigned, what: str) -> list[_Key]:
    """Read at each check, so that a key that is replaced counts at once. Blocks."""
    files = [(path, _read(path, _LARGEST_KEY, f"{what}: public key {path}")) for path in requirement.files]
    inline = [("keyData" if requirement.key_data else f"keyDatas.{n}", pem) for n, pem in enumerate(requirement.inline)]
    return [_Key(name, _verifier(pem, f"{what}: public key {name}")) for name, pem in (*files, *inline)]


def _read(path: str, largest: int, what: str) -> bytes:
    try:
        with open(path, "rb") as file:
            content = file.read(largest + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise FailedPrecondition(f"{what} cannot be read: {reason}") from error
    if len(content) > largest:
        raise FailedPrecondition(f"{what} has more than {largest} bytes")
    return content


def _verifier(pem: bytes, what: str) -> Verify:
    from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415 - with the first image that needs it
    from cryptography.hazmat.primitives.serialization import load_pem_public_key  # noqa: PLC0415

    if b"PRIVATE KEY-----" in pem:
        raise FailedPrecondition(f"{what} is a private key: give the public one, and keep this one elsewhere")
    if pem.count(b"-----BEGIN ") > 1:
        raise FailedPrecondition(f"{what} holds several keys: list them one by one in keyPaths or keyDatas")
    try:
        verify = _of_kind(load_pem_public_key(pem))
    except (ValueError, UnsupportedAlgorithm) as error:
        raise FailedPrecondition(f"{what} is no public key in PEM: {error}") from error
    if verify is None:
        raise FailedPrecondition(
            f"{what} is none of ECDSA on P-256, P-384 or P-521, RSA of {_SHORTEST_RSA} bits or more, and Ed25519"
        )
    return verify


def _of_kind(key: PublicKeyTypes) -> Verify | None:
    """None for a kind of key that sigstore does not sign with."""
    from cryptography.hazmat.primitives import hashes  # noqa: PLC0415 - with the first image that needs it
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa  # noqa: PLC0415

    if isinstance(key, ed25519.Ed25519PublicKey):
        return key.verify
    if isinstance(key, rsa.RSAPublicKey) and key.key_size >= _SHORTEST_RSA:
        return lambda signature, payload: key.verify(signature, payload, padding.PKCS1v15(), hashes.SHA256())
    if isinstance(key, ec.EllipticCurvePublicKey):
        # cosign signed with SHA-256 on every curve before it went over to each curve's own.
        own: dict[str, list[hashes.HashAlgorithm]] = {
            "secp256r1": [],
            "secp384r1": [hashes.SHA384()],
            "secp521r1": [hashes.SHA512()],
        }
        if key.curve.name in own:
            return _ecdsa(key, [hashes.SHA256(), *own[key.curve.name]])
    return None


def _ecdsa(key: EllipticCurvePublicKey, algorithms: Sequence[HashAlgorithm]) -> Verify:
    """Takes a signature by any of the hash algorithms."""
    from cryptography.exceptions import InvalidSignature  # noqa: PLC0415 - with the first image that needs it
    from cryptography.hazmat.primitives.asymmetric.ec import ECDSA  # noqa: PLC0415

    def verify(signature: bytes, payload: bytes) -> None:
        for algorithm in algorithms:
            try:
                return key.verify(signature, payload, ECDSA(algorithm))
            except InvalidSignature:
                continue
        raise InvalidSignature

    return verify
