#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>

namespace mayfly::image {

/// What is being done, on a terminal, drawn over itself; nothing where there is none, or where it takes no time.
class ProgressLine {
 public:
  using Clock = std::chrono::steady_clock;

  /// `file`: where to draw, a descriptor. `is_terminal`: whether to draw at all.
  ProgressLine(int file, bool is_terminal) noexcept : file_(file), is_shown_(is_terminal) {}
  ProgressLine(const ProgressLine&) = delete;
  ProgressLine& operator=(const ProgressLine&) = delete;
  ~ProgressLine() { clear(); }

  /// Called often; draws a few times a second, from the third second on.
  void show(std::string_view step, std::uint64_t done, std::uint64_t total) { show(step, done, total, Clock::now()); }
  void show(std::string_view step, std::uint64_t done, std::uint64_t total, Clock::time_point now);
  /// A step that tells no numbers.
  void say(std::string_view step);
  void clear();

 private:
  void draw(const std::string& text) const;

  int file_;
  bool is_shown_;
  bool is_drawn_ = false;
  Clock::time_point begin_ = Clock::now();
  Clock::time_point last_ = begin_;
};

}  // namespace mayfly::image
