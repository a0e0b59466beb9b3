#include "virtio/service.h"

#include "vmm/base/clock.h"

#include <algorithm>
#include <cstdint>
#include <utility>

namespace mayfly {
namespace {

/// How long a next request is looked for: a driver that waits for each has it ready within a few microseconds.
constexpr std::uint64_t kPollNs = 20'000;
/// Polling in vain costs at most kPollNs in so many waits.
constexpr unsigned kMostSkippedPolls = 1024;
/// What completes as soon as it is submitted (a frame to a TAP, pages in the host's cache) brings more that does;
/// interrupts wait for at most so many rounds of that, and for none after such a time.
constexpr unsigned kRoundsBeforeInterrupts = 4;
constexpr std::uint64_t kLongestDelayNs = 100'000;

}  // namespace

void VirtioService::publish_later(Client& client) {
  if (!std::exchange(client.publish_due_, true)) publishers_.push_back(&client);
}

bool VirtioService::interrupt(int event_fd) {
  if (std::ranges::find(interrupts_, event_fd) != interrupts_.end()) return false;
  interrupts_.push_back(event_fd);
  return true;
}

void VirtioService::forget_interrupt(int event_fd) noexcept { std::erase(interrupts_, event_fd); }

void VirtioService::poll_before_wait(Client& client) {
  if (!std::exchange(client.polled_, true)) polled_.push_back(&client);
}

void VirtioService::forget(Client& client) noexcept {
  std::erase(publishers_, &client);
  std::erase(polled_, &client);
}

void VirtioService::before_wait() noexcept {
  publish();
  serve_prompt_completions();
  send_interrupts();
  busy_poll();
}

void VirtioService::publish() {
  publishing_.swap(publishers_);
  for (Client* client : publishing_) {
    client->publish_due_ = false;
    client->publish_used();
  }
  publishing_.clear();
}

void VirtioService::serve_prompt_completions() {
  if (interrupts_.empty() || !loop_.has_file_operations()) return;
  const std::uint64_t until = monotonic_ns() + kLongestDelayNs;
  for (unsigned round = 0; round < kRoundsBeforeInterrupts && loop_.has_file_operations(); ++round) {
    if (!loop_.serve_what_completes_at_once()) return;
    publish();
    if (monotonic_ns() >= until) return;
  }
}

void VirtioService::send_interrupts() {
  for (const int event_fd : interrupts_) loop_.write_event(event_fd);
  interrupts_.clear();
}

// --- Polling ---------------------------------------------------------------------------------------------------------

void VirtioService::busy_poll() {
  if (polled_.empty()) return;
  if (polls_to_skip_ > 0) {
    --polls_to_skip_;
    return stop_polling();
  }
  loop_.submit();
  bool paid = false;
  for (std::uint64_t until = monotonic_ns() + kPollNs; !loop_.has_completions();) {
    const Client::Found found = poll_each();
    if (found != Client::Found::Nothing) {
      paid = true;
      publish();
      send_interrupts();
      loop_.submit();
      if (found == Client::Found::Plenty) break;
      until = monotonic_ns() + kPollNs;
    } else if (monotonic_ns() >= until) {
      break;
    }
    __builtin_ia32_pause();
  }
  stop_polling();
  if (paid) {
    next_skip_ = 1;
  } else {
    polls_to_skip_ = next_skip_;
    next_skip_ = std::min(next_skip_ * 2, kMostSkippedPolls);
  }
}

VirtioService::Client::Found VirtioService::poll_each() {
  auto most = Client::Found::Nothing;
  for (Client* client : polled_) most = std::max(most, client->busy_poll());
  return most;
}

void VirtioService::stop_polling() {
  for (Client* client : polled_) {
    client->polled_ = false;
    client->stop_polling();
  }
  polled_.clear();
  publish();
  send_interrupts();
}

}  // namespace mayfly
