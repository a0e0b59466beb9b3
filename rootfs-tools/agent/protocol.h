#pragma once

#include "rootfs-tools/agent/frames.h"

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

/// What the payloads of frames say. The host speaks first; a connection is one request.
///
///   request   then to the guest                     then to the host
///   PING                                            DONE
///   POWER OFF with seconds for the program          DONE; init is told then, which ends us
///   EXEC      STDIN, STDIN END, SIGNAL, RESIZE      DONE once it runs; STDOUT, STDERR, STDIN TAKEN, then EXIT
///   CONNECT   raw bytes, after DONE                 DONE; raw bytes
///   GET                                             DONE, a tree, TREE END
///   PUT       a tree, TREE END, after DONE          DONE; DONE once all of it is in place
///
/// REFUSED with a sentence may stand for any of the guest's frames, and is its last. A command's standard input has a
/// window: the host sends at most kStdinWindow bytes more than STDIN TAKEN has acknowledged, so that signals get
/// through to a command that does not read.
namespace mayfly::agent {

inline constexpr std::uint16_t kDefaultPort = 1024;
inline constexpr std::size_t kStdinWindow = 256 * 1024;
inline constexpr std::size_t kMostWords = 4096;  ///< Of a command, and of its environment.
inline constexpr std::uint32_t kLongestStopSeconds = 86'400;
inline constexpr std::uint32_t kLongestWaitMs = 86'400'000;  ///< As long as --patience may be.

struct WindowSize {
  std::uint16_t rows = 24;
  std::uint16_t columns = 80;
  friend bool operator==(const WindowSize&, const WindowSize&) = default;
};

struct ExecRequest {
  std::vector<std::string> command{};      ///< Not empty.
  std::vector<std::string> environment{};  ///< NAME=VALUE, over what the guest has.
  std::string directory{};                 ///< Empty: the guest's default.
  std::string user{};                      ///< As in USER of images; empty: the guest's default.
  bool tty = false;
  WindowSize size{};  ///< Of the terminal.
  friend bool operator==(const ExecRequest&, const ExecRequest&) = default;
};

struct ConnectRequest {
  std::uint16_t port = 0;
  std::uint32_t wait_ms = 0;  ///< For somebody to listen.
  friend bool operator==(const ConnectRequest&, const ConnectRequest&) = default;
};

struct GetRequest {
  std::string path{};  ///< Absolute.
  friend bool operator==(const GetRequest&, const GetRequest&) = default;
};

struct PutRequest {
  std::string path{};  ///< Absolute. Where it is a directory, the tree becomes `name` in it.
  std::string name{};  ///< Of the source; empty: its content goes into the directory.
  friend bool operator==(const PutRequest&, const PutRequest&) = default;
};

/// How a command ended.
struct ExitReport {
  bool by_signal = false;
  std::uint32_t number = 0;  ///< The status, 0 to 255; or the signal's.
  friend bool operator==(const ExitReport&, const ExitReport&) = default;
};

enum class RefusalReason : std::uint8_t { Other, NotFound, NotExecutable };

struct Refusal {
  RefusalReason reason = RefusalReason::Other;
  std::string sentence{};
  friend bool operator==(const Refusal&, const Refusal&) = default;
};

enum class EntryType : std::uint8_t { File = 1, Directory, Link, Fifo };

/// One file of a tree. Its name has no slash: a directory's content follows it, up to its LEAVE.
struct TreeEntry {
  EntryType type = EntryType::File;
  std::uint32_t mode = 0;  ///< Permissions, of 07777.
  std::uint32_t uid = 0;
  std::uint32_t gid = 0;
  std::int64_t seconds = 0;  ///< Of its last change.
  std::uint32_t nanoseconds = 0;
  std::uint64_t size = 0;  ///< Of a file, when it was opened; only for who shows progress.
  std::string name{};      ///< Empty: the tree's root, which the receiver names.
  std::string target{};    ///< Of a symbolic link, as it is.
  friend bool operator==(const TreeEntry&, const TreeEntry&) = default;
};

/// The payload of a frame. Errors: it does not fit, with the remedy.
[[nodiscard]] Result<std::string> encode(const ExecRequest& request);
[[nodiscard]] std::string encode(const ConnectRequest& request);
[[nodiscard]] Result<std::string> encode(const GetRequest& request);
[[nodiscard]] Result<std::string> encode(const PutRequest& request);
[[nodiscard]] std::string encode(const ExitReport& report);
[[nodiscard]] std::string encode(const Refusal& refusal);  ///< A sentence that is too long is cut.
[[nodiscard]] std::string encode(const WindowSize& size);
[[nodiscard]] std::string encode(const TreeEntry& entry);
[[nodiscard]] std::string encode_number(std::uint32_t number);
[[nodiscard]] std::string encode_length(std::uint64_t length);

/// What a payload says. Errors: too short, too long, or a value that is out of its range.
[[nodiscard]] Result<ExecRequest> decode_exec(std::string_view payload);
[[nodiscard]] Result<ConnectRequest> decode_connect(std::string_view payload);
[[nodiscard]] Result<GetRequest> decode_get(std::string_view payload);
[[nodiscard]] Result<PutRequest> decode_put(std::string_view payload);
[[nodiscard]] Result<ExitReport> decode_exit(std::string_view payload);
[[nodiscard]] Result<Refusal> decode_refusal(std::string_view payload);
[[nodiscard]] Result<WindowSize> decode_size(std::string_view payload);
[[nodiscard]] Result<TreeEntry> decode_entry(std::string_view payload);
[[nodiscard]] Result<std::uint32_t> decode_number(std::string_view payload);
[[nodiscard]] Result<std::uint64_t> decode_length(std::string_view payload);

/// Whether a directory can have a file of this name: not empty, no slash, no zero, neither "." nor "..", 255 bytes.
[[nodiscard]] bool is_file_name(std::string_view name) noexcept;

}  // namespace mayfly::agent
