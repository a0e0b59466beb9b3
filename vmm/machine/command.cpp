#include "vmm/machine/command.h"

#include "vmm/base/mutex.h"

#include <optional>

namespace mayfly {

Result<Answer> CommandTarget::execute(Command command) {
  Mutex mutex;
  ConditionVariable given;
  std::optional<Result<Answer>> taken;
  submit(std::move(command), Reply{[&](Result<Answer> answer) {
           const MutexLock lock{mutex};
           taken.emplace(std::move(answer));
           given.notify_one();  // under the lock: the waiter's frame is gone once it has it
         }});
  const MutexLock lock{mutex};
  while (!taken) given.wait(mutex);
  return std::move(*taken);
}

}  // namespace mayfly
