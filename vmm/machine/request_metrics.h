#pragma once

#include "vmm/base/metrics.h"
#include "vmm/machine/command.h"

#include <string_view>

/// Which counters a request moves.
namespace mayfly {

/// A command that was carried out, or refused.
void count_request(Metrics& metrics, const CommandInfo& command, bool ok);

/// A request that made no command, so its kind is not known.
void count_refused_request(Metrics& metrics, std::string_view method) noexcept;

}  // namespace mayfly
