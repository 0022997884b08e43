"""What can go wrong with evidence, and whose fault it is.

Verification raises one of these; it never returns False. Every error carries a stable `code`
(dotted, lower case: `snp.report.signature`), a sentence that says what was found, and a remedy.
"""

from __future__ import annotations

from typing import Final

from attestation.checks import Check

KEY_DISABLED: Final = "quote.key_disabled"


class AttestationError(Exception):
    """Base of every error of this package. Abstract: raise one of the subclasses.

    Attributes:
        code: stable dotted identifier of the check that failed, e.g. `snp.chain.expired`.
        remedy: what an operator or relying party can do; empty where there is nothing to do.
        checks: every check of the verification that ended with this error, if there was one.
    """

    def __init__(self, code: str, message: str, *, remedy: str = "") -> None:
        if type(self) is AttestationError:
            raise TypeError("AttestationError is abstract: raise one of its subclasses")
        super().__init__(message)
        self.code = code
        self.remedy = remedy
        self.checks: tuple[Check, ...] = ()

    def diagnostics(self) -> str:
        """One or two lines for a person: what was found, the code, and what to do."""
        text = f"{self} [{self.code}]"
        return f"{text}\n  {self.remedy}" if self.remedy else text


class MalformedError(AttestationError):
    """The bytes are not what they claim to be: wrong length, structure, type or encoding."""


class VerificationError(AttestationError):
    """The bytes are well formed but do not prove what they claim."""


class UncheckableError(AttestationError):
    """A check could not run (no trust anchor, an unknown format). Not proof of anything."""


class QuoteError(AttestationError):
    """The platform gave no usable quote.

    Attributes:
        final: True where a retry cannot help (no provider, dead key).
        errno: the operating system's error number, or None.
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        remedy: str = "",
        final: bool = False,
        errno: int | None = None,
    ) -> None:
        super().__init__(code, message, remedy=remedy)
        self.final = final
        self.errno = errno

    @property
    def needs_reboot(self) -> bool:
        """Whether this guest gives no quote any more until it is rebooted.

        An SEV-SNP guest whose talk with the firmware failed once zeroes its key (VMPCK), lest two
        messages are encrypted with one IV. What else is final, somebody may mend meanwhile.
        """
        return self.code == KEY_DISABLED

    def again(self) -> QuoteError:
        """The same error, to be raised once more."""
        return QuoteError(
            self.code, str(self), remedy=self.remedy, final=self.final, errno=self.errno
        )
