"""What `pharma-fl doctor` asks about what is installed, at either side."""

from __future__ import annotations

from pharma_fl.deployment.checks import Check, bad, good, guarded

_REINSTALL = "pip install --force-reinstall --no-deps pharma-fl"


def package_check() -> Check:
    """Whether the pharma-fl that runs is the one that is installed, as it was installed."""

    def look() -> Check:
        from pharma_fl.clients.bundle import changed_files, installed_package

        place, changed = installed_package(), changed_files()
        if changed:
            return bad("package", f"changed since it was installed: {', '.join(changed[:5])}", _REINSTALL)
        return good("package", f"{place} is what is installed")

    return guarded("package", look, _REINSTALL)
