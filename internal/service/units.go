package service

// systemdUnit is the unit for systemd's user manager. Its limits also apply to programs that the agent starts, such as a
// credential_process or a browser, so none of them may keep such programs from working. Core dumps are off because they would
// contain keys.
//
// systemd does not restart an agent that ends by itself for lack of work. Exit code 1 says that the agent cannot run, for
// example because another agent does.
const systemdUnit = `[Unit]
Description={{Description}}
Documentation=man:bastion-agent(1)
StartLimitIntervalSec=60
StartLimitBurst=5

[Service]
ExecStart={{Path | cmd}}{{range Arguments}} {{. | cmd}}{{end}}
Restart=on-failure
RestartSec=2
RestartPreventExitStatus=1
UMask=0077
LimitCORE=0
LimitNOFILE=65536
OOMPolicy=continue
NoNewPrivileges=yes
LockPersonality=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK

[Install]
WantedBy=default.target
`

// launchdConfig is the configuration for launchd, with the same rules for restarts.
const launchdConfig = `<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE plist PUBLIC "-//Apple//DTD PLIST 1.0//EN" "http://www.apple.com/DTDs/PropertyList-1.0.dtd">
<plist version="1.0">
<dict>
	<key>Label</key>
	<string>{{Name | html}}</string>
	<key>ProgramArguments</key>
	<array>
		<string>{{Path | html}}</string>
{{range Arguments}}		<string>{{. | html}}</string>
{{end}}	</array>
	<key>RunAtLoad</key>
	<true/>
	<key>KeepAlive</key>
	<dict>
		<key>Crashed</key>
		<true/>
	</dict>
	<key>ProcessType</key>
	<string>Interactive</string>
	<key>Umask</key>
	<integer>63</integer>
	<key>HardResourceLimits</key>
	<dict>
		<key>Core</key>
		<integer>0</integer>
	</dict>
</dict>
</plist>
`
