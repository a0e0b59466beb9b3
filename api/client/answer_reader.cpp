#include "api/client/answer_reader.h"

#include "vmm/base/json_value.h"
#include "vmm/base/printable.h"
#include "vmm/base/text.h"

#include <algorithm>
#include <charconv>
#include <utility>
#include <variant>

namespace mayfly {
namespace {

/// Far more than the metrics and the configuration of the largest machine.
constexpr std::size_t kLongestBody = 16 << 20;
constexpr std::size_t kLongestHead = 64 << 10;
constexpr std::string_view kEndOfLine = "\r\n";
constexpr std::string_view kEndOfHead = "\r\n\r\n";

template <typename Number>
Number number_in(std::string_view text) {
  Number number{};
  std::from_chars(text.data(), text.data() + text.size(), number);
  return number;
}

}  // namespace

Status AnswerReader::take(std::string_view piece) {
  text_.append(piece);
  if (!head_)
    if (auto read = read_head(text_.size() - piece.size()); !read) return read;
  if (head_ && std::max(text_.size(), head_->body.value_or(0)) > kLongestBody)
    return fail(ErrorKind::TooLarge, "the answer has over {} bytes", kLongestBody);
  return {};
}

Result<MachineAnswer> AnswerReader::finish() && {
  if (!head_ || text_.size() < head_->body.value_or(0))
    return fail(ErrorKind::System, "the connection ended before the answer did");
  return MachineAnswer{.status = head_->status, .body = std::move(text_)};
}

/// `text`: lines, each with its end.
AnswerReader::Head AnswerReader::head_of(std::string_view text) {
  Head head;
  constexpr std::string_view kBeforeStatus = "HTTP/1.1 ";
  if (text.starts_with("HTTP/1.") && text.size() > kBeforeStatus.size())
    head.status = number_in<int>(text.substr(kBeforeStatus.size(), 3));
  while (!text.empty()) {
    const std::string_view line = text.substr(0, text.find(kEndOfLine));
    const auto field = http_field(line);
    if (field && equal_ignoring_case(field->name, "content-length")) head.body = number_in<std::size_t>(field->value);
    text.remove_prefix(line.size() + kEndOfLine.size());
  }
  constexpr int kNoContent = 204;
  if (head.status == kNoContent) head.body = 0;
  return head;
}

/// `seen`: how much of the text was here before.
Status AnswerReader::read_head(std::size_t seen) {
  const std::size_t end = text_.find(kEndOfHead, seen - std::min(seen, kEndOfHead.size() - 1));
  if (std::min(end, text_.size()) > kLongestHead)
    return fail(ErrorKind::TooLarge, "the answer's head has over {} bytes", kLongestHead);
  if (end == std::string::npos) return {};
  head_ = head_of(std::string_view{text_}.substr(0, end + kEndOfLine.size()));
  if (head_->status == 0) return fail(ErrorKind::System, "the answer is no HTTP");
  text_.erase(0, end + kEndOfHead.size());
  return {};
}

Result<std::string> body_of(MachineAnswer answer, std::string_view what) {
  if (answer.status / 100 == 2) return std::move(answer.body);
  const std::string sentence = printable(text_member(answer.body, "fault_message"), kLongestShownMessage);
  if (!sentence.empty()) return std::unexpected(Error{ErrorKind::State, sentence});
  return fail(ErrorKind::State, "{} is refused ({}): {}", what, answer.status,
              printable(answer.body, kLongestShownMessage));
}

namespace {

/// A member of a body of that kind; nothing if there is none, or the body is no object.
template <typename Kind>
std::optional<Kind> member_of(const std::string& body, std::string_view name) {
  const auto json = parse_json(body, "the answer");
  const auto* object = json ? std::get_if<JsonValue::Object>(&json->data) : nullptr;
  if (object == nullptr) return std::nullopt;
  for (const JsonMember& member : *object)
    if (member.name == name)
      if (const auto* value = std::get_if<Kind>(&member.value.data)) return *value;
  return std::nullopt;
}

}  // namespace

std::string text_member(const std::string& body, std::string_view name) {
  return member_of<std::string>(body, name).value_or("");
}

std::uint64_t number_member(const std::string& body, std::string_view name) {
  // What fits is signed (parse_json()).
  if (const auto value = member_of<std::int64_t>(body, name))
    return static_cast<std::uint64_t>(std::max<std::int64_t>(*value, 0));
  return member_of<std::uint64_t>(body, name).value_or(0);
}

}  // namespace mayfly
