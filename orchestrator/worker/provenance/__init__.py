"""Who vouches for the Evaluator image: cosign signatures made with a key pair, checked before its first use.

`reference` and `cosign` are pure; `registry` fetches; `verify` puts them together. No cosign program is needed.
"""

from orchestrator.worker.provenance.cosign import NotSigned, PublicKey
from orchestrator.worker.provenance.verify import verify

__all__ = ["NotSigned", "PublicKey", "verify"]
