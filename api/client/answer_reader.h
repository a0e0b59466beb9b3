#pragma once

#include "vmm/base/error.h"

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

/// Reads a machine's answer as it comes; usable for one answer, and for many at once.
///
///   AnswerReader reader;
///   while (!reader.is_whole()) ... reader.take(piece) ...
///   auto answer = std::move(reader).finish();
///   if (answer) auto body = body_of(std::move(*answer), "GET / to /run/vm-7.sock");
namespace mayfly {

struct MachineAnswer {
  int status = 0;
  std::string body;
};

/// An answer as it comes, a piece at a time; none is looked at twice.
class AnswerReader {
 public:
  /// Errors: it is no HTTP, or longer than any answer of a machine's.
  [[nodiscard]] Status take(std::string_view piece);
  /// Whether nothing more is to come.
  [[nodiscard]] bool is_whole() const { return head_ && head_->body && text_.size() >= *head_->body; }
  /// After which nothing came. Error: it is not whole.
  [[nodiscard]] Result<MachineAnswer> finish() &&;

 private:
  struct Head {
    int status = 0;                        ///< 0: it is no HTTP.
    std::optional<std::size_t> body = {};  ///< Its length; none: up to the end of the connection.
  };
  [[nodiscard]] static Head head_of(std::string_view text);
  [[nodiscard]] Status read_head(std::size_t seen);

  std::string text_;  ///< The head as long as it is not whole, then the body.
  std::optional<Head> head_;
};

/// The body of an answer whose status is 2xx. Otherwise an error of kind State whose sentence is the server's, or says
/// what was asked (`what`); printable.
[[nodiscard]] Result<std::string> body_of(MachineAnswer answer, std::string_view what);

/// A member of a body as text; empty if it is no text, or the body no object.
[[nodiscard]] std::string text_member(const std::string& body, std::string_view name);
/// A member of a body as a whole number; 0 if it is none.
[[nodiscard]] std::uint64_t number_member(const std::string& body, std::string_view name);

}  // namespace mayfly
