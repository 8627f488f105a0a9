#pragma once

#include <clocale>

#if defined(_WIN32)
#include <string>
#else
#include <locale.h>

#include <new>
#if defined(__APPLE__)
#include <xlocale.h>
#endif
#endif

namespace mistral {

/// While it lives, C's functions read and write numbers in the calling thread as in the "C" locale, whatever locale the
/// program has chosen. nlohmann's parser needs it: it gives each number the locale's decimal point, of which it takes
/// one byte only, and asserts that std::strtod reads that to its end.
class CLocale {
  public:
#if defined(_WIN32)
    CLocale()
        : scope_(::_configthreadlocale(_ENABLE_PER_THREAD_LOCALE)), previous_(std::setlocale(LC_NUMERIC, nullptr)) {
        std::setlocale(LC_NUMERIC, "C");
    }
    ~CLocale() {
        std::setlocale(LC_NUMERIC, previous_.c_str());
        ::_configthreadlocale(scope_);
    }
#else
    CLocale() : locale_(::newlocale(LC_ALL_MASK, "C", locale_t{})) {
        if (locale_ == locale_t{}) throw std::bad_alloc();  // there is no other reason
        previous_ = ::uselocale(locale_);
    }
    ~CLocale() {
        ::uselocale(previous_);
        ::freelocale(locale_);
    }
#endif
    CLocale(const CLocale&) = delete;
    CLocale& operator=(const CLocale&) = delete;

  private:
#if defined(_WIN32)
    int scope_;
    std::string previous_;
#else
    locale_t locale_;
    locale_t previous_;
#endif
};

}  // namespace mistral
