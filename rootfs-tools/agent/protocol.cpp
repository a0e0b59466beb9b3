#include "rootfs-tools/agent/protocol.h"

#include <algorithm>
#include <climits>
#include <type_traits>

namespace mayfly::agent {
namespace {

constexpr std::size_t kLongestSentence = 4096;
constexpr std::uint32_t kPermissions = 07777;

/// Numbers little-endian, texts behind their length, lists behind their count.
class PayloadWriter {
 public:
  template <typename Number>
  PayloadWriter& number(Number value) {
    auto bits = static_cast<std::make_unsigned_t<Number>>(value);
    for (std::size_t byte = 0; byte < sizeof value; ++byte)
      payload_ += static_cast<char>(static_cast<std::uint64_t>(bits) >> 8 * byte & 0xFF);
    return *this;
  }
  PayloadWriter& text(std::string_view value) {
    number(static_cast<std::uint32_t>(value.size()));
    payload_ += value;
    return *this;
  }
  PayloadWriter& texts(const std::vector<std::string>& values) {
    number(static_cast<std::uint32_t>(values.size()));
    for (const std::string& each : values) text(each);
    return *this;
  }
  [[nodiscard]] std::string take() { return std::move(payload_); }

 private:
  std::string payload_;
};

/// Reads the same. Once something is missing, everything is, and is_whole() says so.
class PayloadReader {
 public:
  explicit PayloadReader(std::string_view payload) : rest_(payload) {}

  template <typename Number>
  Number number() {
    std::uint64_t value = 0;
    if (rest_.size() < sizeof(Number)) {
      is_good_ = false;
      rest_ = {};
      return 0;
    }
    for (std::size_t byte = 0; byte < sizeof(Number); ++byte)
      value |= std::uint64_t{static_cast<std::uint8_t>(rest_[byte])} << 8 * byte;
    rest_.remove_prefix(sizeof(Number));
    return static_cast<Number>(value);
  }
  std::string text() {
    const auto length = number<std::uint32_t>();
    if (length > rest_.size()) {
      is_good_ = false;
      rest_ = {};
      return {};
    }
    std::string value{rest_.substr(0, length)};
    rest_.remove_prefix(length);
    return value;
  }
  std::vector<std::string> texts() {
    const auto count = number<std::uint32_t>();
    // Each has a length: a count that cannot be true reserves nothing.
    if (count > kMostWords || count > rest_.size() / sizeof(std::uint32_t)) is_good_ = false;
    std::vector<std::string> values;
    for (std::uint32_t i = 0; i < count && is_good_; ++i) values.push_back(text());
    return values;
  }
  [[nodiscard]] bool is_whole() const { return is_good_ && rest_.empty(); }

 private:
  std::string_view rest_;
  bool is_good_ = true;
};

std::unexpected<Error> is_wrong(std::string_view what) {
  return fail(ErrorKind::InvalidArgument, "the peer sent {} that is wrong; are both of one version?", what);
}

bool has_zero(std::string_view text) { return text.find('\0') != std::string_view::npos; }

bool is_absolute_path(std::string_view path) {
  return path.starts_with('/') && path.size() < PATH_MAX && !has_zero(path);
}

bool is_setting(const std::string& text) {
  const auto equals = text.find('=');
  return equals != 0 && equals != std::string::npos && !has_zero(text);
}

Result<std::string> fitting(std::string payload, std::string_view what) {
  if (payload.size() <= kLongestPayload) return payload;
  return fail(ErrorKind::TooLarge, "{} has {} bytes, and {} are allowed", what, payload.size(), kLongestPayload);
}

/// A single number.
template <typename Number>
Result<Number> only_number(std::string_view payload) {
  PayloadReader reader{payload};
  const auto number = reader.number<Number>();
  if (!reader.is_whole()) return is_wrong("a number");
  return number;
}

}  // namespace

Result<std::string> encode(const ExecRequest& request) {
  if (request.command.size() > kMostWords || request.environment.size() > kMostWords)
    return fail(ErrorKind::TooLarge,
                "a command has at most {} words and as many variables; copy a script into the guest", kMostWords);
  PayloadWriter writer;
  writer.number<std::uint8_t>(request.tty ? 1 : 0).number(request.size.rows).number(request.size.columns);
  writer.text(request.user).text(request.directory).texts(request.command).texts(request.environment);
  return fitting(writer.take(), "the command, with its environment; copy a script into the guest: it");
}

Result<ExecRequest> decode_exec(std::string_view payload) {
  PayloadReader reader{payload};
  ExecRequest request;
  const auto flags = reader.number<std::uint8_t>();
  request.tty = flags == 1;
  request.size.rows = reader.number<std::uint16_t>();
  request.size.columns = reader.number<std::uint16_t>();
  request.user = reader.text();
  request.directory = reader.text();
  request.command = reader.texts();
  request.environment = reader.texts();
  const bool is_good = reader.is_whole() && flags <= 1 && !request.command.empty() &&
                       !request.command.front().empty() && std::ranges::none_of(request.command, has_zero) &&
                       std::ranges::all_of(request.environment, is_setting) && !has_zero(request.user) &&
                       (request.directory.empty() || is_absolute_path(request.directory));
  if (!is_good) return is_wrong("a command");
  return request;
}

std::string encode(const ConnectRequest& request) {
  return PayloadWriter{}.number(request.port).number(request.wait_ms).take();
}

Result<ConnectRequest> decode_connect(std::string_view payload) {
  PayloadReader reader{payload};
  const ConnectRequest request{.port = reader.number<std::uint16_t>(), .wait_ms = reader.number<std::uint32_t>()};
  if (!reader.is_whole() || request.port == 0 || request.wait_ms > kLongestWaitMs) return is_wrong("a port");
  return request;
}

Result<std::string> encode(const GetRequest& request) {
  return fitting(PayloadWriter{}.text(request.path).take(), "the path");
}

Result<GetRequest> decode_get(std::string_view payload) {
  PayloadReader reader{payload};
  GetRequest request{.path = reader.text()};
  if (!reader.is_whole() || !is_absolute_path(request.path)) return is_wrong("a path");
  return request;
}

Result<std::string> encode(const PutRequest& request) {
  return fitting(PayloadWriter{}.text(request.path).text(request.name).take(), "the path");
}

Result<PutRequest> decode_put(std::string_view payload) {
  PayloadReader reader{payload};
  PutRequest request{.path = reader.text(), .name = reader.text()};
  if (!reader.is_whole() || !is_absolute_path(request.path) || (!request.name.empty() && !is_file_name(request.name)))
    return is_wrong("a path");
  return request;
}

std::string encode(const ExitReport& report) {
  return PayloadWriter{}.number<std::uint8_t>(report.by_signal ? 1 : 0).number(report.number).take();
}

Result<ExitReport> decode_exit(std::string_view payload) {
  PayloadReader reader{payload};
  const auto kind = reader.number<std::uint8_t>();
  const ExitReport report{.by_signal = kind == 1, .number = reader.number<std::uint32_t>()};
  const bool in_range = report.by_signal ? report.number >= 1 && report.number <= 64 : report.number <= 255;
  if (!reader.is_whole() || kind > 1 || !in_range) return is_wrong("an exit status");
  return report;
}

std::string encode(const Refusal& refusal) {
  return PayloadWriter{}
      .number(static_cast<std::uint8_t>(refusal.reason))
      .text(std::string_view{refusal.sentence}.substr(0, kLongestSentence))
      .take();
}

Result<Refusal> decode_refusal(std::string_view payload) {
  PayloadReader reader{payload};
  const auto reason = reader.number<std::uint8_t>();
  Refusal refusal{.reason = static_cast<RefusalReason>(reason), .sentence = reader.text()};
  if (!reader.is_whole() || reason > static_cast<std::uint8_t>(RefusalReason::NotExecutable) ||
      refusal.sentence.size() > kLongestSentence)
    return is_wrong("a refusal");
  return refusal;
}

std::string encode(const WindowSize& size) { return PayloadWriter{}.number(size.rows).number(size.columns).take(); }

Result<WindowSize> decode_size(std::string_view payload) {
  PayloadReader reader{payload};
  const WindowSize size{.rows = reader.number<std::uint16_t>(), .columns = reader.number<std::uint16_t>()};
  if (!reader.is_whole()) return is_wrong("a terminal's size");
  return size;
}

std::string encode(const TreeEntry& entry) {
  PayloadWriter writer;
  writer.number(static_cast<std::uint8_t>(entry.type)).number(entry.mode).number(entry.uid).number(entry.gid);
  writer.number(entry.seconds).number(entry.nanoseconds).number(entry.size);
  return writer.text(entry.name).text(entry.target).take();
}

Result<TreeEntry> decode_entry(std::string_view payload) {
  PayloadReader reader{payload};
  TreeEntry entry;
  const auto type = reader.number<std::uint8_t>();
  if (type < static_cast<std::uint8_t>(EntryType::File) || type > static_cast<std::uint8_t>(EntryType::Fifo))
    return is_wrong("a file's entry");
  entry.type = static_cast<EntryType>(type);
  entry.mode = reader.number<std::uint32_t>();
  entry.uid = reader.number<std::uint32_t>();
  entry.gid = reader.number<std::uint32_t>();
  entry.seconds = reader.number<std::int64_t>();
  entry.nanoseconds = reader.number<std::uint32_t>();
  entry.size = reader.number<std::uint64_t>();
  entry.name = reader.text();
  entry.target = reader.text();
  const bool is_link = entry.type == EntryType::Link;
  const bool is_good = reader.is_whole() && (entry.mode & ~kPermissions) == 0 && entry.nanoseconds < 1'000'000'000 &&
                       (entry.name.empty() || is_file_name(entry.name)) && is_link == !entry.target.empty() &&
                       entry.target.size() < PATH_MAX && !has_zero(entry.target);
  if (!is_good) return is_wrong("a file's entry");
  return entry;
}

std::string encode_number(std::uint32_t number) { return PayloadWriter{}.number(number).take(); }
std::string encode_length(std::uint64_t length) { return PayloadWriter{}.number(length).take(); }
Result<std::uint32_t> decode_number(std::string_view payload) { return only_number<std::uint32_t>(payload); }
Result<std::uint64_t> decode_length(std::string_view payload) { return only_number<std::uint64_t>(payload); }

bool is_file_name(std::string_view name) noexcept {
  return !name.empty() && name.size() <= NAME_MAX && name != "." && name != ".." &&
         name.find_first_of(std::string_view{"/\0", 2}) == std::string_view::npos;
}

}  // namespace mayfly::agent
