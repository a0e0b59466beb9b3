#pragma once

#include "rootfs-tools/init/orders.h"

#include <array>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string_view>

/// The file that tells init, and the agent, how the image wants to be run. Records, each ended by a zero:
///
///   mayfly-run-1
///   arg=/bin/app  arg=--verbose            the program and its arguments, in order
///   env=PATH=/bin                          any number
///   uid=33  gid=33  group=44               by number; group any number of times
///   home=/srv  cwd=/srv  stop=15           of the user; where it starts; the signal that asks it to end
///
/// Values may have any bytes but zeros. rootfs-tools/image/run_file.h writes it. Read without memory of its own: the
/// records' zeros end the texts that are handed out.
namespace mayfly::guest_init {

inline constexpr std::size_t kRunFileLimit = 256 * 1024;
inline constexpr std::size_t kMostRunWords = 1024;
inline constexpr std::size_t kMostRunGroups = 64;
inline constexpr std::string_view kRunFileMark = "mayfly-run-1";

struct RunFile {
  std::array<const char*, kMostRunWords + 1> arguments{};    ///< Up to a null pointer, as execve() takes them.
  std::array<const char*, kMostRunWords + 1> environment{};  ///< The same.
  std::size_t argument_count = 0;
  std::size_t environment_count = 0;
  std::array<std::uint32_t, kMostRunGroups> groups{};
  std::size_t group_count = 0;
  std::uint32_t uid = 0;
  std::uint32_t gid = 0;
  const char* home = "/";
  const char* directory = "/";
  int stop_signal = 15;
};

template <typename Number>
bool read_number(std::string_view text, Number& number) {
  const char* const end = std::to_address(text.end());
  const auto read = std::from_chars(std::to_address(text.begin()), end, number);
  return read.ec == std::errc{} && read.ptr == end;
}

/// One record, whose value ends in a zero. False: it is unknown, or has no value that it may have.
inline bool take_record(std::string_view name, std::string_view value, RunFile& run) {
  const auto add = [&](auto& list, std::size_t& count) {
    if (count == kMostRunWords) return false;
    list[count++] = value.data();
    return true;
  };
  if (name == "arg") return add(run.arguments, run.argument_count);
  if (name == "env") return add(run.environment, run.environment_count);
  if (name == "uid") return read_number(value, run.uid);
  if (name == "gid") return read_number(value, run.gid);
  if (name == "group") {
    if (run.group_count == kMostRunGroups) return false;
    ++run.group_count;
    return read_number(value, run.groups[run.group_count - 1]);
  }
  if (name == "home") return !value.empty() && (run.home = value.data()) != nullptr;
  if (name == "cwd") return value.starts_with('/') && (run.directory = value.data()) != nullptr;
  if (name == "stop") return read_number(value, run.stop_signal) && run.stop_signal >= 1 && run.stop_signal <= 64;
  return false;
}

/// Fills `run` from `text`, which it points into from then on. Returns the record that is wrong; nothing where all are
/// right.
inline std::optional<std::string_view> parse_run_file(std::string_view text, RunFile& run) {
  bool is_first = true;
  while (!text.empty()) {
    const std::size_t end = text.find('\0');
    if (end == std::string_view::npos) return text;
    const std::string_view record = upto(text, end);
    text = from(text, end + 1);
    if (is_first) {
      if (record != kRunFileMark) return record;
      is_first = false;
      continue;
    }
    const std::size_t equals = record.find('=');
    if (equals == std::string_view::npos) return record;
    // Not from(), whose empty text is nowhere: an empty word is one, too.
    const std::string_view value{record.data() + equals + 1, record.size() - equals - 1};
    if (!take_record(upto(record, equals), value, run)) return record;
  }
  if (is_first) return std::string_view{"nothing"};
  return std::nullopt;
}

}  // namespace mayfly::guest_init
