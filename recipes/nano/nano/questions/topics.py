"""What questions are asked about (`self_distillation`)."""

TOPICS = (
    """
dogs, cats, horses, birds, fish, whales, sharks, dolphins, elephants, lions, tigers, bears, wolves, rabbits, mice,
snakes, frogs, spiders, bees, ants, butterflies, trees, flowers, roses, grass, forests, mountains, rivers, lakes,
oceans, islands, deserts, volcanoes, earthquakes, storms, rain, snow, wind, clouds, thunder, lightning, rainbows, the
sun, the moon, the stars, planets, Mars, Jupiter, Saturn, space, rockets, satellites, astronauts, gravity, light,
sound, heat, electricity, magnets, batteries, computers, phones, the internet, email, robots, cameras, television,
radio, music, guitars, pianos, drums, violins, singing, dancing, painting, drawing, sculpture, museums, movies,
actors, books, poems, libraries, newspapers, writing, reading, spelling, grammar, languages, French, Spanish, Chinese,
German, Japanese, English, school, teachers, homework, exams, university, science, mathematics, chemistry, physics,
biology, history, geography, medicine, doctors, nurses, hospitals, dentists, teeth, eyes, ears, the heart, the brain,
bones, muscles, skin, blood, sleep, dreams, exercise, running, swimming, cycling, football, tennis, basketball,
baseball, golf, chess, games, toys, puzzles, cooking, baking, bread, cheese, milk, eggs, butter, rice, pasta, pizza,
soup, salad, apples, bananas, oranges, grapes, strawberries, lemons, potatoes, tomatoes, carrots, onions, garlic,
pepper, salt, sugar, honey, chocolate, coffee, tea, juice, water, breakfast, lunch, dinner, restaurants, kitchens,
fridges, ovens, knives, plates, cups, chairs, tables, beds, doors, windows, houses, apartments, gardens, farms,
villages, cities, streets, bridges, cars, buses, trains, planes, ships, bicycles, motorcycles, traffic, airports,
hotels, beaches, holidays, travel, maps, passports, money, banks, jobs, shops, clothes, shoes, hats, coats, jewelry,
gold, silver, iron, wood, glass, plastic, paper, paint, tools, hammers, clocks, calendars, days, weeks, months, years,
seasons, spring, summer, autumn, winter, birthdays, Christmas, weddings, families, mothers, fathers, brothers,
sisters, babies, children, friends, neighbours, love, happiness, sadness, anger, fear, courage, kindness, honesty,
patience, luck, stress, memory, laughter, jokes, stories, magic, dragons, pirates, kings, queens, castles, wars,
presidents, elections, laws, police, judges, prisons, Paris, London, Rome, Berlin, Tokyo, Beijing, Moscow, Madrid,
Cairo, Sydney, Canada, Brazil, India, Egypt, France, Italy, Germany, Japan, China, Australia, Africa, Europe, Asia,
America, Antarctica, the Amazon, the Nile, the Eiffel Tower, the Great Wall, pyramids, dinosaurs, fossils, cells,
germs, viruses, vitamins, proteins, atoms, oxygen, carbon, hydrogen, fire, ice, steam, oil, coal, gas, recycling,
pollution, climate, weather, temperature, energy, solar power, insects, reptiles, mammals, penguins, owls, eagles,
parrots, chickens, cows, pigs, sheep, goats, ducks, turtles, crocodiles, monkeys, gorillas, pandas, kangaroos, camels,
giraffes, zebras
""".replace("\n", " ")
    .strip()
    .split(", ")
)
