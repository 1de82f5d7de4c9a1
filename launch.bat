@echo off
rem Starts Kumakobo: a double click, or with arguments: launch.bat demo
setlocal
powershell -NoProfile -ExecutionPolicy Bypass -File "%~dp0launch.ps1" %*
set code=%errorlevel%
rem After a double click, leave the window open for the message.
if not "%code%"=="0" if "%~1"=="" pause
exit /b %code%
