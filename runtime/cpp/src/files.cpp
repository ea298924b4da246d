#include "files.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cerrno>
#include <climits>
#include <cstdlib>
#include <cstring>
#include <memory>

#include "sha256.hpp"

namespace spoter::detail {
namespace {

[[noreturn]] void system_error() { throw SystemError{errno, std::strerror(errno)}; }

}  // namespace

File::File(const std::string &path) : descriptor_(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY)) {
  struct stat found = {};
  if (descriptor_ < 0 && errno == ENXIO) throw SystemError{EINVAL, "not a file"};  // a socket
  if (descriptor_ < 0) system_error();
  if (fstat(descriptor_, &found) || !S_ISREG(found.st_mode)) {
    close(descriptor_);
    throw SystemError{EINVAL, "not a file"};
  }
  size_ = static_cast<uint64_t>(found.st_size);
}

File::~File() { close(descriptor_); }

std::string File::read() {
  std::string content(size_, '\0');
  size_t at = 0;
  while (at < content.size()) {
    const ssize_t got = ::read(descriptor_, content.data() + at, content.size() - at);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) system_error();
    if (got == 0) break;  // it became shorter meanwhile
    at += static_cast<size_t>(got);
  }
  content.resize(at);
  return content;
}

std::string File::sha256() {
  const std::unique_ptr<char[]> piece(new char[1 << 16]);
  Sha256 digest;
  while (true) {
    const ssize_t got = ::read(descriptor_, piece.get(), 1 << 16);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) system_error();
    if (got == 0) return digest.hex();
    digest.update({piece.get(), static_cast<size_t>(got)});
  }
}

bool is_file(const std::string &path) {
  struct stat found = {};
  return stat(path.c_str(), &found) == 0 && S_ISREG(found.st_mode);
}

bool is_folder(const std::string &path) {
  struct stat found = {};
  return stat(path.c_str(), &found) == 0 && S_ISDIR(found.st_mode);
}

bool is_there(const std::string &path) {
  struct stat found = {};
  return lstat(path.c_str(), &found) == 0;
}

bool leads_inside(const std::string &folder, const std::string &path) {
  const std::unique_ptr<char, void (*)(void *)> root(realpath(folder.c_str(), nullptr), std::free);
  const std::unique_ptr<char, void (*)(void *)> real(realpath(path.c_str(), nullptr), std::free);
  if (!root || !real) return true;
  const std::string inside = std::string(root.get()) + (std::strcmp(root.get(), "/") == 0 ? "" : "/");
  return (std::string(real.get()) + "/").compare(0, inside.size(), inside) == 0;
}

std::string joined(const std::string &folder, const std::string &name) {
  return folder == "." ? name : folder + (folder.back() == '/' ? "" : "/") + name;
}

std::string tidy(const std::string &path) {
  std::string made;
  for (size_t i = 0; i < path.size();) {
    const size_t end = std::min(path.find('/', i), path.size());
    const std::string part = path.substr(i, end - i);
    if (i == 0 && end == 0) made = "/";
    if (!part.empty() && part != ".") made += (made.empty() || made.back() == '/' ? "" : "/") + part;
    i = end + 1;
  }
  return made.empty() ? "." : made;
}

}  // namespace spoter::detail
