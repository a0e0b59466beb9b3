#pragma once

#include "vmm/base/error.h"

#include <string>
#include <string_view>
#include <vector>

/// Files of /proc and of cgroups: small, and each write says one thing.
namespace mayfly::jailer {

/// All of a file below `directory`, without newlines at its end. Errors: it cannot be read.
[[nodiscard]] Result<std::string> read_at(int directory, const std::string& name);

/// Writes a value to a file that is there; the error number where it is not or the kernel refuses the value, else 0.
[[nodiscard]] int try_write_at(int directory, const std::string& name, std::string_view value);
/// The same, with an error that says so.
[[nodiscard]] Status write_at(int directory, const std::string& name, std::string_view value);

/// What stands between separators; nothing of an empty text.
[[nodiscard]] std::vector<std::string_view> split(std::string_view text, char separator);

}  // namespace mayfly::jailer
