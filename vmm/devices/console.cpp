#include "vmm/devices/console.h"

#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

namespace mayfly {
namespace {

constexpr std::byte kControlA{0x01};
/// Whoever writes so much at once need not wait for more.
constexpr int kMuch = 4096;

}  // namespace

Console::Console(EventLoop& loop, const MonotonicClock& clock, UartMetrics& metrics, ConsoleOptions options,
                 InterruptLine line)
    : loop_(loop),
      metrics_(metrics),
      options_(std::move(options)),
      output_(options_.rate_limiter, clock, metrics, *this),
      serial_(line, output_, *this),
      write_operation_([this](int result, bool) { on_written(result); }),
      gather_operation_([this](int, bool) { on_gathered(); }),
      read_operation_([this](int result, bool) { on_read(result); }) {
  if (!options_.max_bytes || options_.output_fd < 0) return;
  kept_.emplace(*options_.max_bytes);
  (void)::lseek(options_.output_fd, 0, SEEK_END);  // from here on its position is where our last write has ended
}

void Console::start() {
  if (options_.input_fd >= 0) read_next();
}

void Console::flush_wanted() noexcept {
  loop_.post([this] { write_next(); });
}

void Console::burst_ended() noexcept {
  // One task at most, however often a guest says so.
  if (!burst_ended_.exchange(true) && gathering_) loop_.post([this] { stop_gathering(); });
}

void Console::write_next() {
  if (writing_ || gathering_) return;
  if (options_.output_fd < 0) output_.consume(output_.front().size());
  const auto bytes = output_.front();
  if (bytes.empty()) {
    if (drained_) std::exchange(drained_, nullptr)();
    return;
  }
  if (options_.output_fd < 0) return write_next();  // the buffer wrapped around
  if (makes_room(bytes.size())) return;
  writing_ = true;
  if (waiting_)
    loop_.poll_once(options_.output_fd, POLLOUT, write_operation_);
  else
    loop_.write(options_.output_fd, bytes, EventLoop::kNoOffset, write_operation_);
}

bool Console::makes_room(std::size_t more) {
  if (!kept_) return false;
  const off_t end = ::lseek(options_.output_fd, 0, SEEK_CUR);
  freeing_ = kept_->to_free(static_cast<std::uint64_t>(std::max<off_t>(end, 0)), more);
  if (!freeing_) return false;
  writing_ = true;
  loop_.fallocate(options_.output_fd, kFreeMode, freeing_->offset, freeing_->length, write_operation_);
  return true;
}

void Console::on_freed(int result) {
  const auto range = std::exchange(freeing_, std::nullopt);
  if (result == 0) {
    kept_->freed(*range);
  } else if (result != -EINTR) {
    // A file system without holes, or a broken one: the limit holds, and what is new is lost.
    metrics_.flush_errors.add();
    output_.consume(output_.front().size());
  }
  write_next();
}

void Console::on_written(int result) {
  writing_ = false;
  if (result == -ECANCELED) return;
  if (freeing_) return on_freed(result);
  if (std::exchange(waiting_, false)) return write_next();
  if (result == -EAGAIN) {  // a descriptor that somebody made non-blocking, with a slow reader
    waiting_ = true;
    return write_next();
  }
  if (result < 0) {
    // The reader is gone for good (EPIPE), or the disk is full: the guest's console works on, and its output is lost.
    metrics_.flush_errors.add();
    output_.consume(output_.front().size());
  } else {
    output_.consume(static_cast<std::size_t>(result));
  }
  if (drained_ || result >= kMuch) return write_next();
  gather();
}

void Console::gather() {
  gathering_ = true;
  if (burst_ended_.exchange(false)) return stop_gathering();
  if (!std::exchange(gather_timer_runs_, true)) loop_.sleep(options_.gather_at_most, gather_operation_);
}

void Console::stop_gathering() {
  if (!gathering_.exchange(false)) return;
  burst_ended_ = false;  // all of it is written now
  write_next();
}

void Console::on_gathered() {
  gather_timer_runs_ = false;
  stop_gathering();
}

void Console::when_drained(std::function<void()> done) {
  drained_ = std::move(done);
  if (gathering_) return stop_gathering();
  write_next();
}

void Console::read_next() {
  input_waiting_ = waits_for_input_;
  if (input_waiting_)
    loop_.poll_once(options_.input_fd, POLLIN, read_operation_);
  else
    read_now();
}

void Console::read_now() { loop_.read(options_.input_fd, input_, EventLoop::kNoOffset, read_operation_); }

void Console::on_read(int result) {
  if (std::exchange(input_waiting_, false) && result > 0) return read_now();
  if (result == -EAGAIN) {
    waits_for_input_ = true;
    return read_next();
  }
  if (result <= 0) return;  // the end of the input, or of the terminal: the guest just hears nothing more
  pending_ = std::span{input_}.first(static_cast<std::size_t>(result));
  if (options_.on_quit && !filter_escapes()) {
    options_.on_quit();
    return;
  }
  offer_pending();
}

bool Console::filter_escapes() {
  std::size_t kept = 0;
  for (const std::byte key : pending_) {
    if (!escape_ && key == kControlA) {
      escape_ = true;
      continue;
    }
    if (escape_ && (key == std::byte{'x'} || key == std::byte{'X'})) return false;
    escape_ = false;
    pending_[kept++] = key;  // what follows Ctrl-A is the guest's, Ctrl-A itself included
  }
  pending_ = pending_.first(kept);
  return true;
}

void Console::offer_pending() {
  const std::size_t taken = serial_.offer(pending_);
  metrics_.read_count.add(taken);
  pending_ = pending_.subspan(taken);
  if (pending_.empty()) read_next();  // otherwise room_available() follows
}

void Console::offer_again() {
  if (!pending_.empty()) offer_pending();
}

void Console::room_available() noexcept {
  loop_.post([this] { offer_again(); });  // which may have been done meanwhile
}

}  // namespace mayfly
