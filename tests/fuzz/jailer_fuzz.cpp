// Any words as the jailer's arguments, any text as the kernel's lists and any bytes as an executable: nothing crashes,
// and no name that is taken leads out of its directory.

#include "jailer/arguments.h"
#include "jailer/cgroups.h"
#include "jailer/executable.h"
#include "jailer/privileges.h"
#include "jailer/small_file.h"

#include <algorithm>
#include <cstdlib>
#include <span>

namespace {

using namespace mayfly::jailer;

void require(bool holds) {
  if (!holds) std::abort();
}

bool leads_out(std::string_view path) {
  const auto names = split(path, '/');
  return path.starts_with('/') || std::ranges::find(names, "..") != names.end();
}

void check(const JailArguments& jail) {
  require(is_id(jail.id));
  for (const CgroupSetting& setting : jail.cgroups.settings) require(setting.file.find('/') == std::string::npos);
  if (jail.cgroups.parent) require(!leads_out(*jail.cgroups.parent));
}

void check(const CleanupArguments& cleanup) {
  require(is_id(cleanup.id));
  require(cleanup.exec_name.find('/') == std::string::npos && !leads_out(cleanup.exec_name));
  if (cleanup.parent_cgroup) require(!leads_out(*cleanup.parent_cgroup));
}

void check(const PrintText&) {}

void parse_words(std::string_view text) {
  std::vector<std::string> words{"mayfly-jailer"};
  for (const std::string_view word : split(text, '\n')) words.emplace_back(word);
  std::vector<const char*> argv;
  for (const std::string& word : words) argv.push_back(word.c_str());
  const auto invocation = parse_jailer_arguments(static_cast<int>(argv.size()), argv.data());
  if (invocation) std::visit([](const auto& what) { check(what); }, *invocation);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text{reinterpret_cast<const char*>(data), size};
  parse_words(text);
  (void)check_static_elf(std::as_bytes(std::span{data, size}), "x");
  (void)is_mapped(text, 1000);
  const std::size_t half = size / 2;
  (void)parse_hierarchies(text.substr(0, half), text.substr(half));
  return 0;
}
