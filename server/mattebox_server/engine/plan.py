"""What a runtime needs to know before it loads a network: the artifact, the device, the precision and the options."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mattebox_server.engine.artifact import Artifact
from mattebox_server.engine.config import EngineConfig, ProviderName, RunningPrecision, fixed_lengths, provider_options


@dataclass(frozen=True)
class Device:
    """The processor or GPU of this machine on which a provider runs.

    Args:
        provider: the execution provider.
        name: name of the processor or GPU, as its driver gives it, with all abilities that decide about kernels.
        versions: versions of everything that a compiled model depends on, by name.
        native: reduced precisions that the device computes in: bf16 or tf32.
    """

    provider: ProviderName
    name: str
    versions: Mapping[str, str]
    native: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Plan:
    """How an artifact is to run: on which device, in which precision, and with the operator's configuration."""

    artifact: Artifact
    device: Device
    precision: RunningPrecision
    config: EngineConfig

    @property
    def provider(self) -> ProviderName:
        """The execution provider."""
        return self.device.provider

    @property
    def fixed(self) -> dict[str, int]:
        """Lengths of the network's input that are known beforehand, by their names in the artifact."""
        return fixed_lengths(self.config, self.provider)

    def options(self, cache: Path | None) -> dict[str, str]:
        """The provider's own options; `cache` is the folder of the compiled model, None means no cache."""
        return provider_options(self.provider, self.artifact.spec, self.config, self.precision, cache)

    def facts(self) -> dict[str, str]:
        """Everything that the compiled model depends on. Raises OSError if the artifact can't be read."""
        settings = self.options(None) | {"fixed": str(self.fixed)}
        return cache_facts(self.artifact.sha256, self.device, self.precision, settings)


def cache_facts(
    artifact_sha256: str, device: Device, precision: RunningPrecision, settings: Mapping[str, str]
) -> dict[str, str]:
    """Everything that a compiled model depends on, by name: the key of its entry in the cache.

    `settings` are the provider's own options, number of threads and shapes included, folder of the cache excluded.
    """
    return {
        "artifact": artifact_sha256,
        "provider": device.provider,
        "device": device.name,
        "precision": precision,
        **{f"version of {name}": version for name, version in device.versions.items()},
        **{f"option {name}": value for name, value in settings.items()},
    }
