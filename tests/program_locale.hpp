#pragma once

#include <doctest/doctest.h>

#include <clocale>
#include <locale>
#include <string>
#include <vector>

/// The program's locale, in C and for C++'s streams, until it goes out of scope. Of C++ only the punctuation of numbers
/// changes: commas and thousands in groups.
class ProgramLocale {
  public:
    explicit ProgramLocale(const std::string& name) { std::setlocale(LC_ALL, name.c_str()); }
    ~ProgramLocale() {
        std::locale::global(cxx_);
        std::setlocale(LC_ALL, c_.c_str());
    }
    ProgramLocale(const ProgramLocale&) = delete;
    ProgramLocale& operator=(const ProgramLocale&) = delete;

    /// What C writes between the digits of 1.5.
    [[nodiscard]] static std::string decimal_point() { return std::localeconv()->decimal_point; }

  private:
    struct Punctuation : std::numpunct<char> {
        char do_decimal_point() const override { return ','; }
        char do_thousands_sep() const override { return '.'; }
        std::string do_grouping() const override { return "\3"; }
    };

    std::string c_ = std::setlocale(LC_ALL, nullptr);
    std::locale cxx_ = std::locale::global(std::locale(std::locale::classic(), new Punctuation));
};

/// Calls `check` in programs with decimal points of one and of two bytes: German's comma and Pashto's U+066B. Where the
/// system has no such locales it says so, which ctest shows as a skipped test.
template <class Check>
void for_each_decimal_point(const Check& check) {
    struct Locale {
        std::string name, decimal_point;
    };
    const std::vector<Locale> locales{{"de_DE.UTF-8", ","}, {"ps_AF.UTF-8", "\xD9\xAB"}};
    for (const Locale& wanted : locales) {
        const ProgramLocale locale(wanted.name);
        if (ProgramLocale::decimal_point() != wanted.decimal_point) {
            MESSAGE("cannot run: the system has no locale " << wanted.name);
            return;
        }
    }
    for (const Locale& wanted : locales) {
        CAPTURE(wanted.name);
        const ProgramLocale locale(wanted.name);
        check();
        CHECK(ProgramLocale::decimal_point() == wanted.decimal_point);  // as the program left it
    }
}
