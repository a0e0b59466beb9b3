#include "tests/support/held_requests.h"

#include "tests/support/child_process.h"

#include <linux/fuse.h>

#include <algorithm>
#include <cmath>
#include <csignal>
#include <cstring>
#include <fstream>

namespace mayfly::testing {
namespace {

/// How often threads are looked at.
constexpr double kLookMs = 20;

bool is_being_killed(std::uint32_t thread) {
  std::ifstream status{"/proc/" + std::to_string(thread) + "/status"};
  constexpr std::uint64_t kKill = 1ULL << (SIGKILL - 1);
  for (std::string line; std::getline(status, line);)
    if (line.starts_with("SigPnd:") || line.starts_with("ShdPnd:"))
      if ((std::strtoull(line.c_str() + std::strlen("SigPnd:"), nullptr, 16) & kKill) != 0) return true;
  return false;
}

std::uint32_t thread_of(const HeldRequests::Held& held) {
  fuse_in_header header{};
  std::memcpy(&header, held.message.data(), sizeof header);
  return header.pid;
}

}  // namespace

void HeldRequests::add(std::span<const std::byte> message, double delay_us) {
  held_.push_back({.message = {message.begin(), message.end()}, .due_us = now_us() + delay_us});
}

void HeldRequests::release() {
  for (Held& held : held_) held.due_us = 0;
}

std::optional<HeldRequests::Held> HeldRequests::take_due() {
  const auto first = std::ranges::min_element(held_, {}, &Held::due_us);
  if (first == held_.end() || first->due_us > now_us()) return std::nullopt;
  Held taken = std::move(*first);
  held_.erase(first);
  return taken;
}

std::optional<HeldRequests::Held> HeldRequests::take_killed() {
  if (now_us() < next_look_us_) return std::nullopt;
  const auto killed = std::ranges::find_if(held_, [](const Held& held) { return is_being_killed(thread_of(held)); });
  if (killed == held_.end()) {
    next_look_us_ = now_us() + kLookMs * 1e3;
    return std::nullopt;
  }
  Held taken = std::move(*killed);
  held_.erase(killed);
  return taken;
}

int HeldRequests::poll_timeout() const {
  if (held_.empty()) return -1;
  const double due_us = std::ranges::min(held_, {}, &Held::due_us).due_us;
  return static_cast<int>(std::ceil(std::clamp((due_us - now_us()) / 1e3, 0.0, kLookMs)));
}

}  // namespace mayfly::testing
