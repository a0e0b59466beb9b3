#pragma once

#include "vmm/base/error.h"
#include "vmm/base/mutex.h"
#include "vmm/base/owned_fd.h"
#include "vmm/machine/command.h"

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

/// Answers on their way from the machine's thread to the server's, and what wakes the server.
///
///   Reply reply{[box, id](Result<Answer> answer) { box->give(id, std::move(answer)); }};
///
/// Replies share it, so that one may be given when the server is gone.
namespace mayfly {

class AnswerBox {
 public:
  struct Given {
    std::uint64_t connection;
    Result<Answer> answer;
  };

  /// Room for `most` answers; more than these cost an allocation. Error: no descriptor left.
  [[nodiscard]] static Result<std::shared_ptr<AnswerBox>> create(std::size_t most);

  AnswerBox(OwnedFd event, std::size_t most);

  /// To be watched with EPOLLET, which reports each wake-up once, unread.
  [[nodiscard]] int fd() const noexcept { return event_.get(); }
  /// Any thread.
  void wake() noexcept;
  /// Any thread. Wakes the server if it has not been woken since it last took what was there.
  void give(std::uint64_t connection, Result<Answer> answer) noexcept;
  /// What was given since the last time, in place of what `answers` held.
  void take(std::vector<Given>& answers);

 private:
  OwnedFd event_;
  Mutex mutex_;
  std::vector<Given> given_ GUARDED_BY(mutex_);
};

}  // namespace mayfly
