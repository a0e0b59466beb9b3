#include "jailer/privileges.h"

#include <linux/keyctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <gtest/gtest.h>

namespace mayfly::jailer {
namespace {

long keyctl(int operation, int keyring) { return ::syscall(SYS_keyctl, operation, keyring, 0); }

/// For a process of its own, whose keyring and privileges change: 0 where the keyring was left, 77 where this host has
/// none.
int lose_session_keyring() {
  if (::syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, nullptr) < 0) return 77;
  const long before = keyctl(KEYCTL_GET_KEYRING_ID, KEY_SPEC_SESSION_KEYRING);
  if (!drop_privileges(65'534, 65'534)) return 1;
  const long after = keyctl(KEYCTL_GET_KEYRING_ID, KEY_SPEC_SESSION_KEYRING);
  return before > 0 && after > 0 && before != after ? 0 : 2;
}

TEST(JailPrivileges, DoNotIncludeTheCallersSessionKeyring) {
  if (::geteuid() != 0) GTEST_SKIP() << "only root can become another user";
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) ::_exit(lose_session_keyring());
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFEXITED(status));
  if (WEXITSTATUS(status) == 77) GTEST_SKIP() << "no key rings here";
  EXPECT_EQ(WEXITSTATUS(status), 0);
}

TEST(JailUserNamespace, HasTheNumbersThatItsMapLists) {
  const std::string_view host = "         0          0 4294967295\n";
  EXPECT_TRUE(is_mapped(host, 0));
  EXPECT_TRUE(is_mapped(host, 4294967294));
  const std::string_view container = "0 100000 65536\n70000 200000 1\n";
  EXPECT_TRUE(is_mapped(container, 65535));
  EXPECT_FALSE(is_mapped(container, 65536));
  EXPECT_TRUE(is_mapped(container, 70000));
  EXPECT_FALSE(is_mapped(container, 70001));
  EXPECT_FALSE(is_mapped("", 0));
  EXPECT_FALSE(is_mapped("nonsense\n", 0));
}

}  // namespace
}  // namespace mayfly::jailer
