#pragma once

#include "vmm/machine/command.h"

#include <span>
#include <string>
#include <string_view>
#include <vector>

/// The whole configuration as one JSON document: the shape that GET /vm/config answers with.
///
///   {"boot-source": {"kernel_image_path": "vmlinux"}, "machine-config": {"vcpu_count": 2, "mem_size_mib": 256}}
///
///   auto file = parse_config_file(text);
///   for (Command& command : file->commands) ...   // in order; the last one starts the machine
namespace mayfly {

struct ConfigFile {
  std::vector<Command> commands;
  /// They have no effect, as in the dialect: whoever wrote them is to know.
  std::vector<std::string> unknown_sections;
};

/// The first few of their names, for messages.
[[nodiscard]] std::string in_words(std::span<const std::string> sections);

/// The commands that configure the machine so and start it. Each section has the fields of its path in the API;
/// "boot-source" is required; "drives" and "network-interfaces" are arrays, whose order is kept. "cpu-config" may also
/// be the path of a file that has the template, as in the dialect. Sections of devices that Mayfly does not have are
/// accepted while they are null or empty. Every error names its section; none of the commands is to be carried out
/// then.
[[nodiscard]] Result<ConfigFile> parse_config_file(std::string_view json);

/// A file that has the template: a body of PUT /cpu-config. Errors: it cannot be read, is too large, or is none; `where` stands
/// before what is wrong with it.
[[nodiscard]] Result<CpuConfig> read_cpu_config_file(const std::string& path, const std::string& where);

}  // namespace mayfly
