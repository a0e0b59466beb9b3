#include "api/client/command_line.h"

#include "vmm/base/machine_id.h"

#include <algorithm>
#include <array>
#include <vector>

namespace mayfly {
namespace {

constexpr std::size_t kMostWords = 256;

/// Empty where no machine has such a command line.
std::vector<std::string> words_of(std::string_view text) {
  if (text.size() > kLongestCommandLine) return {};
  std::vector<std::string> words;
  for (std::size_t at = 0, end = 0; at < text.size(); at = end + 1) {
    if (words.size() == kMostWords) return {};
    end = std::min(text.find('\0', at), text.size());
    words.emplace_back(text.substr(at, end - at));
  }
  return words;
}

/// Whether there is --NAME or --NAME=VALUE.
bool has_flag(const std::vector<std::string>& words, std::string_view name) {
  return std::any_of(words.begin() + 1, words.end(), [name](std::string_view word) {
    return word.starts_with(name) && (word.size() == name.size() || word[name.size()] == '=');
  });
}

/// The value of --NAME VALUE or --NAME=VALUE.
std::optional<std::string> option(const std::vector<std::string>& words, std::string_view name) {
  for (std::size_t i = 1; i < words.size(); ++i) {
    const std::string_view word = words[i];
    if (word == name && i + 1 < words.size()) return words[i + 1];
    if (word.starts_with(name) && word.size() > name.size() && word[name.size()] == '=')
      return std::string{word.substr(name.size() + 1)};
  }
  return std::nullopt;
}

/// Whether it is `mayfly run` or `mayfly restore`, which have an API only where they are given its socket.
bool is_on_terminal(const std::vector<std::string>& words) {
  return words.size() > 1 && (words[1] == "run" || words[1] == "restore");
}

/// Whether it is `mayfly` with a machine and without a subcommand, before which no option may stand.
bool is_serving(const std::vector<std::string>& words) {
  if (words.size() > 1 && !words[1].starts_with('-')) return false;
  constexpr std::array<std::string_view, 5> kOnlyAnswered = {"--help", "-h", "--version", "--snapshot-version",
                                                             "--describe-snapshot"};
  return std::ranges::none_of(kOnlyAnswered, [&](std::string_view flag) { return has_flag(words, flag); });
}

/// As its command line has it; none: no API.
std::optional<std::string> socket_in(const std::vector<std::string>& words) {
  auto socket = option(words, "--api-sock");
  if (is_on_terminal(words)) return socket;
  if (has_flag(words, "--no-api")) return std::nullopt;
  return socket ? socket : kDefaultSocket;
}

}  // namespace

std::optional<StartedMachine> parse_command_line(std::string_view text) {
  const std::vector<std::string> words = words_of(text);
  if (words.empty() || (!is_on_terminal(words) && !is_serving(words))) return std::nullopt;
  StartedMachine machine{
      .id = option(words, "--id").value_or(is_on_terminal(words) ? kDefaultTerminalId : kDefaultMachineId),
      .socket = socket_in(words)};
  if (!is_machine_id(machine.id)) return std::nullopt;  // ours would not have started with it
  return machine;
}

}  // namespace mayfly
