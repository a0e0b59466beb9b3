#pragma once

#include "snapshot/state_file.h"
#include "vmm/base/owned_fd.h"

#include <fcntl.h>
#include <unistd.h>

#include <cstdint>
#include <stdexcept>
#include <string>

namespace mayfly::testing {

/// Rewrites a state file as it would be had its snapshot been taken so long before.
inline void age_state(const std::string& path, std::uint64_t seconds) {
  auto snapshot = read_state_file(path);
  if (!snapshot) throw std::runtime_error(snapshot.error().message);
  snapshot->clock.realtime_ns -= seconds * 1'000'000'000;
  const auto bytes = encode_loadable(*snapshot);
  if (!bytes) throw std::runtime_error(bytes.error().message);
  const OwnedFd file{::open(path.c_str(), O_WRONLY | O_TRUNC | O_CLOEXEC)};
  if (::write(file.get(), bytes->data(), bytes->size()) != static_cast<ssize_t>(bytes->size()))
    throw std::runtime_error("cannot rewrite " + path);
}

}  // namespace mayfly::testing
