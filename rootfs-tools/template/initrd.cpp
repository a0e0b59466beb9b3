#include "rootfs-tools/template/initrd.h"

#include <archive.h>
#include <archive_entry.h>
#include <sys/stat.h>

#include <memory>

namespace mayfly::image {
namespace {

struct Free {
  void operator()(archive* out) const noexcept { ::archive_write_free(out); }
  void operator()(archive_entry* entry) const noexcept { ::archive_entry_free(entry); }
};

la_ssize_t append(archive* /*out*/, void* text, const void* bytes, std::size_t length) {
  static_cast<std::string*>(text)->append(static_cast<const char*>(bytes), length);
  return static_cast<la_ssize_t>(length);
}

}  // namespace

Result<std::string> make_initrd(const std::vector<InitrdFile>& files) {
  std::string text;
  const std::unique_ptr<archive, Free> out{::archive_write_new()};
  const auto refused = [&out] {
    return fail(ErrorKind::System, "cannot make an initial RAM disk: {}", ::archive_error_string(out.get()));
  };
  if (::archive_write_set_format_cpio_newc(out.get()) != ARCHIVE_OK ||
      ::archive_write_open(out.get(), &text, nullptr, append, nullptr) != ARCHIVE_OK)
    return refused();
  std::int64_t number = 0;
  for (const InitrdFile& file : files) {
    const std::unique_ptr<archive_entry, Free> entry{::archive_entry_new()};
    ::archive_entry_set_pathname(entry.get(), std::string{file.name}.c_str());
    ::archive_entry_set_mode(entry.get(), file.mode);
    ::archive_entry_set_nlink(entry.get(), S_ISDIR(file.mode) ? 2 : 1);
    ::archive_entry_set_ino64(entry.get(), ++number);
    ::archive_entry_set_size(entry.get(), static_cast<la_int64_t>(file.data.size()));
    if (::archive_write_header(out.get(), entry.get()) != ARCHIVE_OK) return refused();
    if (::archive_write_data(out.get(), file.data.data(), file.data.size()) !=
        static_cast<la_ssize_t>(file.data.size()))
      return refused();
  }
  if (::archive_write_close(out.get()) != ARCHIVE_OK) return refused();
  return text;
}

}  // namespace mayfly::image
