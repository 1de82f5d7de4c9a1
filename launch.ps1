# Starts Kumakobo on Windows; the first time it also installs it, into .venv beside this file.
# launch.bat calls this without a change of the execution policy. All decisions are in lora_core/setup; this only
# finds a Python to run it with, as launch.sh does.
$root = Split-Path -Parent $MyInvocation.MyCommand.Path
$before = $env:PYTHONPATH
$env:PYTHONPATH = if ($before) { "$root;$before" } else { $root }
$env:PYTHONUTF8 = "1"
$env:PYTHONHOME = $null
if (-not $env:KUMAKOBO_LANG -and (Get-UICulture).TwoLetterISOLanguageName -eq "ja") { $env:KUMAKOBO_LANG = "ja" }

$fits = "import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))"

# A command and its arguments, such as py -3.12; true when it is a Python of the right version.
function Test-Python([string[]] $command) {
    if (-not $command[0] -or -not (Get-Command $command[0] -ErrorAction SilentlyContinue)) { return $false }
    $options = @($command | Select-Object -Skip 1)
    try { & $command[0] @options -c $fits *> $null } catch { return $false }
    return $LASTEXITCODE -eq 0
}

$candidates = @()
# Windows can't delete a Python that is running, so a new environment is made by another one.
if ($args -notcontains "--reinstall") { $candidates += , @("$root\.venv\Scripts\python.exe") }
if ($env:KUMAKOBO_PYTHON) { $candidates += , @($env:KUMAKOBO_PYTHON) }
$candidates += , @("py", "-3.12")
$candidates += , @("py", "-3.13")
$candidates += , @("py", "-3.11")
$candidates += , @("python")
$candidates += , @("python3")

$python = $null
foreach ($candidate in $candidates) {
    if (Test-Python $candidate) { $python = $candidate; break }
}
if (-not $python -and (Get-Command uv -ErrorAction SilentlyContinue)) {
    # uv brings a Python of its own.
    uv python install --quiet 3.12
    $found = uv python find ">=3.11,<3.14" 2> $null
    if ($found -and (Test-Python @("$found"))) { $python = @("$found") }
}
if (-not $python) {
    # Written as code points, because Windows PowerShell reads this file in the system's legacy encoding.
    if ($env:KUMAKOBO_LANG -like "ja*") {
        $ja = "Python 3.11\u30013.12\u30013.13 \u306e\u3044\u305a\u308c\u3082\u898b\u3064\u304b\u308a\u307e\u305b\u3093\u3002https://www.python.org/downloads/ \u304b\u3089\u30a4\u30f3\u30b9\u30c8\u30fc\u30eb\u3057\u3066\uff08\u300cAdd python.exe to PATH\u300d\u306b\u30c1\u30a7\u30c3\u30af\uff09\u3001\u3082\u3046\u4e00\u5ea6 launch.bat \u3092\u8d77\u52d5\u3057\u3066\u304f\u3060\u3055\u3044\u3002winget \u306a\u3089: winget install Python.Python.3.12"
        Write-Host ([System.Text.RegularExpressions.Regex]::Unescape($ja))
    } else {
        Write-Host "Python 3.11, 3.12 or 3.13 was not found. Install one of them from https://www.python.org/downloads/ (tick 'Add python.exe to PATH') or with: winget install Python.Python.3.12"
        Write-Host "Then start launch.bat again. To use a Python from another place, set KUMAKOBO_PYTHON to its path."
    }
    exit 1
}

$options = @($python | Select-Object -Skip 1)
& $python[0] @options -m lora_core.setup @args
exit $LASTEXITCODE
