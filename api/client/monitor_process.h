#pragma once

#include "api/client/deadline.h"
#include "vmm/base/error.h"
#include "vmm/base/owned_fd.h"

#include <sys/types.h>

#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

/// A `mayfly` process and its API.
///
///   auto monitor = MonitorProcess::start({.binary = "/usr/bin/mayfly", .directory = "/run/agent", .id = "clone-1"});
///   if (auto put = monitor->api().request("PUT", "/mmds", body); !put) return propagate(put);
///
/// It ends with the object. One that was started ends also with the thread that started it, so when we are killed.
namespace mayfly {

/// The API alone. A copy may be used on another thread, and fails once the process has ended.
class MonitorApi {
 public:
  /// `process` must listen there. `cancel`: see ApiClientOptions.
  MonitorApi(std::string socket, pid_t process, int cancel = -1)
      : socket_(std::move(socket)), process_(process), cancel_(cancel) {}

  /// The body of a 2xx answer to a request, by then.
  [[nodiscard]] Result<std::string> ask(std::string_view method, std::string_view path, std::string_view body,
                                        Deadline deadline) const;
  /// The same, for what takes no time to speak of.
  [[nodiscard]] Result<std::string> ask(std::string_view method, std::string_view path,
                                        std::string_view body = "") const;
  /// The same, where the body says nothing.
  [[nodiscard]] Status request(std::string_view method, std::string_view path, std::string_view body,
                               Deadline deadline) const;
  [[nodiscard]] Status request(std::string_view method, std::string_view path, std::string_view body) const;

  [[nodiscard]] const std::string& socket() const noexcept { return socket_; }
  [[nodiscard]] pid_t process() const noexcept { return process_; }

 private:
  std::string socket_;
  pid_t process_;
  int cancel_;
};

/// For a request that writes a snapshot: a large machine on a slow disk.
inline constexpr std::chrono::hours kSnapshotPatience{1};

struct MonitorOptions {
  std::string binary;
  std::string directory;  ///< For its socket.
  std::string id;
  std::vector<std::string> more{};  ///< Further arguments.
  int console = -1;                 ///< The guest's output; -1: nowhere.
  int cancel = -1;                  ///< Of all requests: see ApiClientOptions.
};

/// Where a monitor of this id has its socket.
[[nodiscard]] std::string socket_path(const std::string& directory, const std::string& id);

/// A program that becomes a monitor, such as a jailer.
struct MonitorCommand {
  std::vector<std::string> words;  ///< The program's path, and its arguments.
  std::string socket;              ///< Of its API, as it is seen from here.
  int console = -1;                ///< Its standard output; -1: nowhere.
  int errors = -1;                 ///< Its standard error; -1: ours.
  /// It does not end with us: a session of its own.
  bool stays = false;
  /// But until it gives up the rights of root, as a jailer does: upon that the kernel forgets it.
  bool ends_with_us_as_root = false;
  std::optional<Deadline> deadline{};  ///< For the first answer; none: a minute.
  int cancel = -1;                     ///< Of all requests: see ApiClientOptions.
};

class MonitorProcess {
 public:
  /// Returns when it has given its first answer: from then on it makes ready what a load will need. In the namespaces
  /// of the calling thread.
  [[nodiscard]] static Result<MonitorProcess> start(const MonitorOptions& options);
  [[nodiscard]] static Result<MonitorProcess> start(MonitorCommand command);
  /// One that was branched off another, by its socket. Its end is then ours to see to. Errors: nobody listens there.
  [[nodiscard]] static Result<MonitorProcess> adopt(const std::string& socket);

  MonitorProcess(MonitorProcess&&) noexcept = default;
  MonitorProcess& operator=(MonitorProcess&&) = delete;
  MonitorProcess(const MonitorProcess&) = delete;
  MonitorProcess& operator=(const MonitorProcess&) = delete;
  /// Kills it, waits for it, and removes its socket; but for one that was let go.
  ~MonitorProcess();
  /// Its end is not ours any more. Returns its number.
  pid_t let_go() &&;

  [[nodiscard]] const MonitorApi& api() const noexcept { return api_; }
  /// Readable once it has ended.
  [[nodiscard]] int pidfd() const noexcept { return pidfd_.get(); }
  [[nodiscard]] bool has_ended() const;
  void kill() const;
  /// Has it end by itself, upon which it gives back at once what it holds (see CloneNetwork::await_unused()).
  void ask_to_end() const;
  /// The same, and waits; kills it where that takes long.
  void end() const;

 private:
  MonitorProcess(OwnedFd pidfd, MonitorApi api) : pidfd_(std::move(pidfd)), api_(std::move(api)) {}
  [[nodiscard]] Status await_first_answer(Deadline deadline) const;
  void signal(int number) const;

  OwnedFd pidfd_;
  MonitorApi api_;
};

/// For a monitor to end by itself.
inline constexpr std::chrono::seconds kEndPatience{1};

}  // namespace mayfly
