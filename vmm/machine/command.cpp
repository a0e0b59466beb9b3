#include "vmm/machine/command.h"

#include <condition_variable>
#include <mutex>
#include <optional>

namespace mayfly {

Result<Answer> CommandTarget::execute(Command command) {
  std::mutex mutex;
  std::condition_variable given;
  std::optional<Result<Answer>> taken;
  submit(std::move(command), Reply{[&](Result<Answer> answer) {
           const std::scoped_lock lock{mutex};
           taken.emplace(std::move(answer));
           given.notify_one();  // under the lock: the waiter's frame is gone once it has it
         }});
  std::unique_lock lock{mutex};
  given.wait(lock, [&] { return taken.has_value(); });
  return std::move(*taken);
}

}  // namespace mayfly
