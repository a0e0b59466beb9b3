#pragma once

#include "vmm/base/error.h"

#include <cstdio>
#include <string>

namespace mayfly {

/// Exit codes of the process that are not a machine's end; the values are the dialect's.
inline constexpr int kExitError = 1;
inline constexpr int kExitBadConfiguration = 152;
inline constexpr int kExitBadArguments = 153;

/// The code for what was refused: either what the user configured is wrong, or the host cannot do it.
[[nodiscard]] int exit_code_of(const Error& error) noexcept;

/// Prints an error for whoever called the program, and returns `code`. Without control characters, which a terminal
/// would obey: a message may quote the path or content of a file from elsewhere.
int report(const Error& error, int code);

/// Prints a result: 0, or the code of a reader who went away or of a full disk.
int print(const std::string& text, std::FILE* out);

}  // namespace mayfly
