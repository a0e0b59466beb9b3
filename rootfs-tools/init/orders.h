#pragma once

#include <cstddef>
#include <optional>
#include <string_view>

/// What the kernel's command line orders of mayfly-guest-init.
///
///   const Orders orders = parse_orders(R"(quiet mayfly.run="echo hello" mayfly.end=reboot)");
///
///   mayfly.run="COMMAND"       run by `/bin/sh -c`; up to the next double quote, as the kernel quotes. Default: a shell,
///                              or the image's program
///   mayfly.end=HOW             poweroff (default), reboot, halt or panic
///   mayfly.image=DEVICE        a drive with a container image (squashfs or EROFS), which becomes the root
///   mayfly.overlay=DEVICE      a drive (ext4) for what is changed of it; default: memory
///   mayfly.hostname=NAME       of a guest with an image; default: mayfly
///   mayfly.nameserver=ADDRESS  for /etc/resolv.conf of a guest with an image
///
/// Only views of the line are handed out: nothing is allocated and nothing thrown, since init has no run-time library
/// for either.
namespace mayfly::guest_init {

enum class End { power_off, reboot, halt, panic };

struct Orders {
  std::string_view run{};  ///< Empty: a shell on the console.
  End end = End::power_off;
  std::string_view unknown_end{};  ///< The last value of mayfly.end that means nothing.
  std::string_view image{};        ///< Empty: the root is where init is.
  std::string_view overlay{};      ///< Empty: in memory.
  std::string_view hostname{};
  std::string_view nameserver{};
};

/// The rest of `text` from `position`; empty beyond the end. (substr() would bring in the exception machinery.)
inline std::string_view from(std::string_view text, std::size_t position) {
  return position < text.size() ? std::string_view{text.data() + position, text.size() - position} : std::string_view{};
}

/// The first `length` characters of `text`, or all there are.
inline std::string_view upto(std::string_view text, std::size_t length) {
  return {text.data(), length < text.size() ? length : text.size()};
}

struct Parameter {
  std::string_view name;
  std::string_view value;
};

inline bool is_space(char c) { return c == ' ' || c == '\t' || c == '\n'; }

inline std::string_view unquoted(std::string_view text) {
  if (!text.starts_with('"')) return text;
  text = from(text, 1);
  return text.ends_with('"') ? upto(text, text.size() - 1) : text;
}

/// Takes the next parameter from `line` by the kernel's own rules (next_arg() in lib/cmdline.c): words end at white
/// space outside double quotes; quotes stand around a whole word or around its value; nothing escapes a quote.
inline std::optional<Parameter> take_parameter(std::string_view& line) {
  while (!line.empty() && is_space(line.front())) line = from(line, 1);
  if (line.empty()) return std::nullopt;
  bool quoted = false;
  std::size_t end = 0;
  while (end < line.size() && (quoted || !is_space(line[end]))) quoted ^= line[end++] == '"';
  const std::string_view word = unquoted(upto(line, end));
  line = from(line, end);
  const std::size_t equals = word.find('=');
  if (equals == std::string_view::npos) return Parameter{word, {}};
  return Parameter{upto(word, equals), unquoted(from(word, equals + 1))};
}

inline std::optional<End> end_named(std::string_view name) {
  if (name == "poweroff") return End::power_off;
  if (name == "reboot") return End::reboot;
  if (name == "halt") return End::halt;
  if (name == "panic") return End::panic;
  return std::nullopt;
}

/// The last of each, and the last mayfly.end that means something.
inline Orders parse_orders(std::string_view line) {
  Orders orders;
  while (const auto parameter = take_parameter(line)) {
    if (parameter->name == "mayfly.run") orders.run = parameter->value;
    if (parameter->name == "mayfly.image") orders.image = parameter->value;
    if (parameter->name == "mayfly.overlay") orders.overlay = parameter->value;
    if (parameter->name == "mayfly.hostname") orders.hostname = parameter->value;
    if (parameter->name == "mayfly.nameserver") orders.nameserver = parameter->value;
    if (parameter->name != "mayfly.end") continue;
    if (const auto end = end_named(parameter->value)) {
      orders.end = *end;
    } else {
      orders.unknown_end = parameter->value;
    }
  }
  return orders;
}

}  // namespace mayfly::guest_init
