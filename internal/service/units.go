package service

// systemdUnit is for systemd's user manager. Programs that the agent starts, such as a credential_process, have its
// limits too: there is none that keeps such programs, which may be browsers, from working. Core dumps would have keys.
//
// An agent that ends by itself had nothing to do. Exit code 1 says that it cannot run, most of all that another agent
// does.
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

// launchdConfig is for launchd. KeepAlive as above.
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
