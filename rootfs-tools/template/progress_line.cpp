#include "rootfs-tools/template/progress_line.h"

#include <unistd.h>

#include <algorithm>

#include <fmt/format.h>

namespace mayfly::image {
namespace {

constexpr std::chrono::seconds kSilence{2};
constexpr std::chrono::milliseconds kEvery{200};
constexpr std::size_t kWidth = 30;

}  // namespace

void ProgressLine::show(std::string_view step, std::uint64_t done, std::uint64_t total, Clock::time_point now) {
  if (!is_shown_ || now - begin_ < kSilence || (is_drawn_ && now - last_ < kEvery)) return;
  is_drawn_ = true;
  last_ = now;
  total = std::max<std::uint64_t>(total, 1);
  done = std::min(done, total);
  const auto full = static_cast<std::size_t>(static_cast<double>(done) / static_cast<double>(total) * kWidth);
  draw(fmt::format("\r\033[K{}: [{:<{}}] {} of {} MiB", step, std::string(full, '#'), kWidth, done >> 20, total >> 20));
}

void ProgressLine::say(std::string_view step) {
  if (!is_shown_) return;
  is_drawn_ = true;
  draw(fmt::format("\r\033[K{} ...", step));
}

void ProgressLine::clear() {
  if (is_drawn_) draw("\r\033[K");
  is_drawn_ = false;
}

void ProgressLine::draw(const std::string& text) const {
  const ssize_t written = ::write(file_, text.data(), text.size());
  (void)written;  // a terminal that is gone misses nothing
}

}  // namespace mayfly::image
